'use strict'
// The MTA-STS policies of other domains (RFC 8461): fetched when they change, remembered as long as they ask for.

const fs = require('node:fs')
const https = require('node:https')

const FETCH_MS = 20000
const BYTES_MAX = 65536 // section 3.2: a policy is short
const AGE_MAX_S = 31557600 // section 3.2
const DOMAINS_MAX = 5000

class Policies {
    constructor(resolver, file) {
        this.resolver = resolver
        this.file = file
        this.known = new Map()
        try {
            this.known = new Map(Object.entries(JSON.parse(fs.readFileSync(file, 'utf8'))))
        } catch (error) {
            if (error.code !== 'ENOENT' && !(error instanceof SyntaxError)) throw error
        }
    }

    // Return {policy, failure}: the policy of *domain*, {mode, mx, text}, or null, and what went wrong with a newer one, in
    // the words of RFC 8460. What can't be fetched now is what it was before.
    async of(domain) {
        const known = this.known.get(domain)
        const current = known && known.expires > Date.now() ? known : null
        const id = await this.announced(domain).catch(() => null)
        if (id === null || (current && current.id === id)) return { policy: current }
        let text
        try {
            text = await fetched(`mta-sts.${domain}`)
        } catch (error) {
            const distrusted = /^(ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_)/.test(error.code)
            return { policy: current, failure: distrusted ? 'sts-webpki-invalid' : 'sts-policy-fetch-error' }
        }
        try {
            const policy = parsed(text)
            this.remember(domain, { ...policy, text, id, expires: Date.now() + policy.maxAge * 1000 })
            return { policy: this.known.get(domain) }
        } catch {
            return { policy: current, failure: 'sts-policy-invalid' }
        }
    }

    // Return the id in the domain's record, or null: none, or more than one (section 3.1).
    async announced(domain) {
        const { rows } = await this.resolver.ask(`_mta-sts.${domain}`, 'TXT')
        const texts = rows.map((strings) => Buffer.concat([strings].flat()).toString('latin1'))
        const ours = texts.filter((text) => /^v=STSv1\s*;/.test(text))
        const found = ours.length === 1 && /;\s*id=([A-Za-z0-9]{1,32})\s*(;|$)/.exec(ours[0])
        return found ? found[1] : null
    }

    remember(domain, policy) {
        this.known.delete(domain)
        this.known.set(domain, policy)
        for (const oldest of this.known.keys()) {
            if (this.known.size <= DOMAINS_MAX) break
            this.known.delete(oldest)
        }
        fs.writeFileSync(`${this.file}.new`, JSON.stringify(Object.fromEntries(this.known)))
        fs.renameSync(`${this.file}.new`, this.file)
    }
}

// Return what *host* serves as its policy; redirections are not followed (section 3.3).
function fetched(host) {
    return new Promise((resolve, reject) => {
        const request = https.get(
            { host, path: '/.well-known/mta-sts.txt', agent: false, signal: AbortSignal.timeout(FETCH_MS) },
            (response) => {
                if (response.statusCode !== 200) return request.destroy(new Error(`status ${response.statusCode}`))
                let text = ''
                response.setEncoding('utf8')
                response.on('data', (part) => {
                    text += part
                    if (text.length > BYTES_MAX) request.destroy(new Error('too long'))
                })
                response.on('end', () => resolve(text))
                response.on('error', reject)
            },
        )
        request.on('error', reject)
    })
}

// Return {mode, mx, maxAge} of the text of a policy; throw when it is none.
function parsed(text) {
    const rows = text.split(/\r?\n/).map((line) => /^([a-z_]+):\s*(.*?)\s*$/.exec(line)).filter(Boolean)
    const one = (key) => rows.find(([, name]) => name === key)?.[2]
    const mx = rows.filter(([, name]) => name === 'mx').map(([, , pattern]) => pattern.toLowerCase())
    const maxAge = Number(one('max_age'))
    const mode = one('mode')
    if (one('version') !== 'STSv1' || !['enforce', 'testing', 'none'].includes(mode) || !(maxAge >= 0)) {
        throw new Error('no policy')
    }
    if (mode !== 'none' && !mx.length) throw new Error('no policy')
    return { mode, mx, maxAge: Math.min(maxAge, AGE_MAX_S) }
}

// Return whether one of *patterns* is for *host* (section 4.1: a wildcard is one label).
function permits(patterns, host) {
    return patterns.some((pattern) =>
        pattern.startsWith('*.') ? host.slice(host.indexOf('.') + 1) === pattern.slice(2) : host === pattern,
    )
}

module.exports = { Policies, parsed, permits }
