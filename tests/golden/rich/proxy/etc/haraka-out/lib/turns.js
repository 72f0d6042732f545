'use strict'
// One after another: whoever takes a turn has it to himself, unless the one before keeps it too long.

class Turns {
    #last = Promise.resolve()
    #longest

    // No one waits longer than *longest* milliseconds for the one before.
    constructor(longest) {
        this.#longest = longest
    }

    // Wait for one's turn; return the function that ends it, which may be called more than once.
    async take() {
        const before = this.#last
        let end
        this.#last = new Promise((resolve) => (end = resolve))
        let timer
        const patience = new Promise((resolve) => (timer = setTimeout(resolve, this.#longest)))
        await Promise.race([before, patience])
        clearTimeout(timer)
        return end
    }
}

module.exports = { Turns }
