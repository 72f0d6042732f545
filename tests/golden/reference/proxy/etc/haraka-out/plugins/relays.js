'use strict'
// Let mail for some domains, or for all but ours, go through the server of a provider.
//
// Only to a server that proves its name, as it gets a password and all that we write; otherwise mail waits.

const fs = require('node:fs')

exports.register = function () {
    const { own, relays } = this.config.get('relays.json')
    this.own = new Set(own)
    this.relays = new Map()
    for (const relay of relays) {
        for (const domain of relay.domains.length ? relay.domains : ['*']) this.relays.set(domain, relay)
    }
}

exports.hook_get_mx = function (next, hmail, domain) {
    const name = domain.toLowerCase()
    // What returns to one of our own users comes in by our own front door.
    const relay = this.own.has(name) ? null : this.relays.get(name) || this.relays.get('*')
    if (!relay) return next()
    const way = { exchange: relay.host, port: relay.port, priority: 0 }
    if (relay.username) {
        try {
            way.auth_user = relay.username
            way.auth_pass = fs.readFileSync(relay.password, 'utf8').trimEnd()
        } catch (error) {
            this.logerror(`the password of ${relay.host} can't be read: ${error.code}`)
            return next(DENYSOFT, 'no password for the relay')
        }
    }
    hmail.get_force_tls = () => true
    next(OK, way)
}
