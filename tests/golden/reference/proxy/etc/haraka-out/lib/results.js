'use strict'
// How TLS went with domains that want to be told (RFC 8460): a line per session, in a file per day (UTC). The client
// fetches a day when it is over, and writes the reports.

const fs = require('node:fs')
const path = require('node:path')

const BYTES_MAX = 4 << 20 // of a day; whoever sends that much gets a sample
const DAYS_KEPT = 3
const DAY_MS = 86400000

const day = (time) => new Date(time).toISOString().slice(0, 10)

class Results {
    constructor(resolver, folder) {
        this.resolver = resolver
        this.folder = folder
        this.file = null
        this.bytes = 0
    }

    // Write down *session*, {domain, policy, result, …}, if its domain wants to know.
    async add(session) {
        if (!(await this.wanted(session.domain))) return
        this.turn()
        const line = `${JSON.stringify(session)}\n`
        if (this.bytes + line.length > BYTES_MAX) return
        this.bytes += line.length
        await fs.promises.appendFile(this.file, line)
    }

    // Return whether *domain* says where reports go.
    async wanted(domain) {
        const { rows } = await this.resolver.ask(`_smtp._tls.${domain}`, 'TXT')
        const texts = rows.map((strings) => Buffer.concat([strings].flat()).toString('latin1'))
        return texts.filter((text) => /^v=TLSRPTv1\s*;/.test(text)).length === 1
    }

    // Take today's file, and remove those that nobody came for.
    turn() {
        const file = path.join(this.folder, day(Date.now()))
        if (file === this.file) return
        this.file = file
        this.bytes = fs.existsSync(file) ? fs.statSync(file).size : 0
        const oldest = day(Date.now() - DAYS_KEPT * DAY_MS)
        for (const name of fs.readdirSync(this.folder)) {
            if (name < oldest) fs.rmSync(path.join(this.folder, name))
        }
    }
}

module.exports = { Results }
