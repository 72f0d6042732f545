'use strict'
// One SMTP dialogue with the client's Postfix: connect, commands, a message. Every wait has an end.

const net = require('node:net')
const { PassThrough } = require('node:stream')

// Longest waits, in milliseconds. Getting in is quick or does not happen: the sender shall hear 4xx within 2 s; one SYN
// may get lost (TCP sends it again after a second). Judging
// takes the client some DNS; a message with slow filters up to 300 s (Postfix's milter_content_timeout), after which
// Postfix itself gives the answer.
const WAIT = { connect: 1500, greeting: 10000, hello: 10000, command: 30000, stall: 120000, message: 330000 }
const HEARTBEAT = 60000
const LONGEST_REPLY = 65536

// The client can't be reached, is late or talks nonsense: never the sender's fault, always worth another try.
class Lost extends Error {}

class Reply {
    constructor(code, lines) {
        this.code = code
        this.lines = lines
    }
    get positive() {
        return this.code >= 200 && this.code < 400
    }
    // 421 says that the server is going away, whatever the command was.
    get permanent() {
        return this.code >= 500
    }
    get text() {
        return this.lines.join('\n')
    }
}

class Dialogue {
    #socket
    #received = ''
    #lines = []
    #waiting = null
    #timer = null
    #heartbeat = null
    #turn = Promise.resolve()
    #lost = null

    constructor(host, port) {
        this.#socket = net.connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 30000 })
        this.#socket.setEncoding('utf8')
        this.#socket.on('data', (text) => this.#take(text))
        this.#socket.on('error', (error) => this.#fail(error.code || error.message))
        this.#socket.on('close', () => this.#fail('the connection was closed'))
    }

    // Wait for the greeting; raises Lost when there is none in time.
    async open() {
        await new Promise((resolve, reject) => {
            this.#waiting = { resolve, reject }
            this.#arm(WAIT.connect, 'connection')
            this.#socket.once('connect', () => {
                this.#waiting = null
                clearTimeout(this.#timer)
                resolve()
            })
        })
        const greeting = await this.#reply(WAIT.greeting, 'greeting')
        if (!greeting.positive) throw new Lost(`greeted with ${greeting.code} ${greeting.text}`)
        this.#heartbeat = setInterval(() => this.#keepAlive(), HEARTBEAT)
    }

    // Send EHLO; return the keywords of the answer with their parameters, or null when it is refused.
    async extensions(name) {
        const reply = await this.command(`EHLO ${name}`, WAIT.hello)
        if (!reply.positive) return { reply, offered: null }
        const offered = new Map()
        for (const line of reply.lines.slice(1)) {
            const [keyword, ...parameters] = line.toUpperCase().split(' ')
            offered.set(keyword, parameters)
        }
        return { reply, offered }
    }

    // Send one command, after those sent before it were answered; return its Reply.
    command(line, wait = WAIT.command) {
        return this.#inTurn(async () => {
            if (/[\r\n\0]/.test(line)) throw new Lost('a command with a line break was not sent')
            this.#socket.write(`${line}\r\n`)
            return this.#reply(wait, line.split(' ', 1)[0])
        })
    }

    // Send the message in *stream* (Haraka's), as DATA allowed it; return the Reply to the final dot.
    message(stream) {
        return this.#inTurn(async () => {
            // Between Haraka's stream and the socket, to see each piece go and the end of it.
            const body = new PassThrough()
            const reply = this.#reply(WAIT.stall, 'message')
            reply.catch(() => {})
            body.on('data', () => this.#arm(WAIT.stall, 'message'))
            body.once('end', () => this.#arm(WAIT.message, 'answer to the message'))
            this.#socket.once('close', () => body.destroy())
            body.pipe(this.#socket, { end: false })
            stream.pipe(body, { ending_dot: true, dot_stuffed: false })
            const answer = await reply
            // Answered before the end: nothing that follows would be understood.
            if (!body.readableEnded) {
                stream.unpipe()
                this.abort()
            }
            return answer
        })
    }

    // Part politely; what the server says to that is of no interest. While an answer is awaited there is no polite way.
    close() {
        if (this.#lost) return
        if (this.#waiting) return this.abort()
        this.#lost = new Lost('ended')
        this.#stop()
        this.#socket.removeAllListeners('data')
        this.#socket.resume()
        this.#socket.setTimeout(WAIT.hello, () => this.#socket.destroy())
        this.#socket.end('QUIT\r\n')
    }

    // Break off: an unfinished message is not taken by the server.
    abort() {
        this.#fail('broken off')
    }

    #inTurn(step) {
        const result = this.#turn.then(() => {
            if (this.#lost) throw this.#lost
            return step()
        })
        this.#turn = result.catch(() => {})
        return result
    }

    #reply(wait, what) {
        return new Promise((resolve, reject) => {
            if (this.#lost) return reject(this.#lost)
            this.#waiting = { resolve, reject }
            this.#arm(wait, what)
        })
    }

    #arm(wait, what) {
        clearTimeout(this.#timer)
        if (this.#waiting) this.#timer = setTimeout(() => this.#fail(`no ${what} within ${wait / 1000} s`), wait)
    }

    // A sender may take long for a large message; this keeps the server's own timeout away, and notices a dead tunnel.
    #keepAlive() {
        if (!this.#waiting) this.command('NOOP').catch(() => {})
    }

    #take(text) {
        this.#received += text
        let end
        while ((end = this.#received.indexOf('\n')) !== -1) {
            const line = this.#received.slice(0, end).replace(/\r$/, '')
            this.#received = this.#received.slice(end + 1)
            this.#takeLine(line)
        }
        if (this.#received.length > LONGEST_REPLY) this.#fail('an endless reply')
    }

    #takeLine(line) {
        const parts = /^([2-5]\d\d)(?:([ -])(.*))?$/.exec(line)
        if (!parts || this.#lines.length > 100) return this.#fail(`not a reply: ${line.slice(0, 200)}`)
        this.#lines.push(parts[3] || '')
        if (parts[2] === '-') return
        const reply = new Reply(Number(parts[1]), this.#lines)
        this.#lines = []
        // Nobody asked: the server says that it is going away.
        if (!this.#waiting) return this.#fail(`${reply.code} ${reply.text}`)
        const { resolve } = this.#waiting
        this.#waiting = null
        clearTimeout(this.#timer)
        resolve(reply)
    }

    #fail(why) {
        if (!this.#lost) {
            this.#lost = new Lost(why)
            this.#socket.destroy()
        }
        this.#stop()
    }

    #stop() {
        clearTimeout(this.#timer)
        clearInterval(this.#heartbeat)
        const waiting = this.#waiting
        this.#waiting = null
        waiting?.reject(this.#lost)
    }
}

module.exports = { Dialogue, Lost }
