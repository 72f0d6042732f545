'use strict'
// Honour what the recipient's domain demands of the way to it: DANE, and where there is none MTA-STS.
//
// What can't be met is deferred and tried again; it never goes without. A server that demands nothing gets what TLS it
// offers, as ever. Haraka itself can only be told in advance which hosts to force to TLS, and knows no TLSA records.

const path = require('node:path')
const { Resolver } = require(path.join(__dirname, '../lib/resolver.js'))
const { Policies, permits } = require(path.join(__dirname, '../lib/mta_sts.js'))
const dane = require(path.join(__dirname, '../lib/dane.js'))

exports.register = function () {
    const settings = this.config.get('policy.ini').main
    this.resolver = new Resolver(require('dns-packet'), settings.resolver)
    this.policies = new Policies(this.resolver, settings.store)
}

exports.hook_get_mx = function (next, hmail, domain) {
    this.way_to(domain.toLowerCase()).then(
        (way) => {
            if (!way) return next()
            demand(hmail, way.demands)
            next(OK, way.hosts)
        },
        (error) => {
            this.lognotice(`${domain}: deferred: ${error.message}`)
            next(DENYSOFT, error.message)
        },
    )
}

// Return {hosts, demands}: where mail for *domain* may go, and what has to hold there by name of host; null when nothing
// is demanded, or there is nowhere to go.
exports.way_to = async function (domain) {
    const found = await this.resolver.ask(domain, 'MX')
    if (found.rcode === 'NXDOMAIN') return null
    if (found.rcode !== 'NOERROR') throw new Error(`MX of ${domain}: ${found.rcode}`)
    // RFC 5321 section 5.1: without MX the domain's own address
    const rows = found.rows.length ? found.rows : [{ preference: 0, exchange: domain }]
    if (rows.some(({ exchange }) => !exchange || exchange === '.')) return null
    const policy = await this.policies.of(domain)
    const enforced = policy?.mode === 'enforce' ? policy : null

    const demands = new Map()
    const hosts = []
    const left_out = []
    for (const { preference, exchange } of rows.sort((a, b) => a.preference - b.preference)) {
        const host = exchange.toLowerCase().replace(/\.$/, '')
        try {
            const records = found.secure ? await this.tlsa(host) : null
            if (records) demands.set(host, { records })
            else if (enforced && !permits(enforced.mx, host)) throw new Error('not in the MTA-STS policy')
            else if (enforced) demands.set(host, {})
            hosts.push({ exchange: host, priority: preference })
        } catch (error) {
            left_out.push(`${host}: ${error.message}`)
        }
    }
    if (!hosts.length) throw new Error(left_out.join('; '))
    return demands.size || left_out.length ? { hosts, demands } : null
}

// Return the usable TLSA records of *host*, null when it has none; throw when that can't be found out, as an attacker
// could see to that (RFC 7672 section 2.1).
exports.tlsa = async function (host) {
    const address = await this.resolver.ask(host, 'A')
    if (!['NOERROR', 'NXDOMAIN'].includes(address.rcode)) throw new Error(`A: ${address.rcode}`)
    if (!address.secure) return null
    const found = await this.resolver.ask(`_25._tcp.${host}`, 'TLSA')
    if (!['NOERROR', 'NXDOMAIN'].includes(found.rcode)) throw new Error(`TLSA: ${found.rcode}`)
    return found.secure && found.rows.length ? dane.usable(found.rows) : null
}

// Hosts are looked up before they are connected to.
const name_of = (mx) => (mx.from_dns || mx.exchange || '').toLowerCase()

// See to it that *hmail* goes to no host that does not meet its demand.
function demand(hmail, demands) {
    hmail.get_force_tls = (mx) => demands.has(name_of(mx))
    const deliver = hmail.try_deliver_host_on_socket
    hmail.try_deliver_host_on_socket = function (mx, host, port, socket) {
        const records = demands.get(name_of(mx))?.records
        if (records) judged_by_dane(socket, records, name_of(mx))
        return deliver.call(this, mx, host, port, socket)
    }
}

// Let *records* decide about the certificate on *socket*, in place of the authorities that this host trusts.
function judged_by_dane(socket, records, host) {
    const upgrade = socket.upgrade
    socket.upgrade = (options, done) =>
        upgrade({ ...options, rejectUnauthorized: false }, (_authorized, _error, certificate, cipher) => {
            const fits = dane.fits(records, dane.chainOf(socket.cleartext), host)
            socket.cleartext.authorized = fits
            done(fits, fits ? null : 'no TLSA record fits', certificate, cipher)
        })
}
