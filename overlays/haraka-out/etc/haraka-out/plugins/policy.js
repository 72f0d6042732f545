'use strict'
// Honour what the recipient's domain demands of the way to it: DANE, and where there is none MTA-STS.
//
// What can't be met is deferred and tried again; it never goes without. A server that demands nothing gets what TLS it
// offers, as ever. Haraka itself can only be told in advance which hosts to force to TLS, and knows no TLSA records.
// How it went is written down for domains that want reports about it (TLS-RPT).

const path = require('node:path')
const { Resolver } = require(path.join(__dirname, '../lib/resolver.js'))
const { Policies, permits } = require(path.join(__dirname, '../lib/mta_sts.js'))
const { Results } = require(path.join(__dirname, '../lib/results.js'))
const { witness } = require(path.join(__dirname, '../lib/session.js'))
const dane = require(path.join(__dirname, '../lib/dane.js'))

const NO_POLICY = { 'policy-type': 'no-policy-found' }

exports.register = function () {
    const settings = this.config.get('policy.ini').main
    this.resolver = new Resolver(require('dns-packet'), settings.resolver)
    this.policies = new Policies(this.resolver, settings.store)
    this.results = new Results(this.resolver, settings.results)
}

// A sender may say that this message is to arrive, whatever becomes of TLS (RFC 8689 section 5): reports about TLS do.
exports.hook_data_post = function (next, connection) {
    const { header, notes } = connection.transaction
    const said = header.get_all('TLS-Required').map((text) => text.trim().toLowerCase())
    notes.tls_is_optional = said.length === 1 && said[0] === 'no'
    next()
}

exports.hook_get_mx = function (next, hmail, domain) {
    // All of it as a promise: of a hook that throws Haraka thinks that it had nothing to say.
    this.prepare(hmail, domain.toLowerCase()).then(
        (hosts) => (hosts ? next(OK, hosts) : next()),
        (error) => {
            this.lognotice(`${domain}: deferred: ${error.message}`)
            next(DENYSOFT, error.message)
        },
    )
}

// Put on *hmail* what *domain* demands, and return the hosts that it may go to, null where that is as DNS says.
exports.prepare = async function (hmail, domain) {
    if (hmail.todo.notes.tls_is_optional) return null
    const told = (session) =>
        this.results.add({ domain, ...session }).catch((error) => this.logerror(`not written down: ${error.message}`))
    const way = await this.way_to(domain, told)
    if (way) demand(hmail, way, told)
    return way && way.hosts
}

// Return {hosts, demands, policy}: where mail for *domain* may go, null when that is as DNS says, what has to hold there by
// name of host, and the policy of the others; null when there is nowhere to go. What is found wrong now is *told*.
exports.way_to = async function (domain, told) {
    const found = await this.resolver.ask(domain, 'MX')
    if (found.rcode === 'NXDOMAIN') return null
    if (found.rcode !== 'NOERROR') throw new Error(`MX of ${domain}: ${found.rcode}`)
    // RFC 5321 section 5.1: without MX the domain's own address
    const rows = found.rows.length ? found.rows : [{ preference: 0, exchange: domain }]
    if (rows.some(({ exchange }) => !exchange || exchange === '.')) return null
    const { policy: announced, failure } = await this.policies.of(domain)
    const policy = announced && announced.mode !== 'none' ? sts(announced, domain) : { ...NO_POLICY, 'policy-domain': domain }
    if (failure) told({ policy: { 'policy-type': 'sts', 'policy-domain': domain }, result: failure })
    const enforced = announced?.mode === 'enforce' ? announced : null

    const demands = new Map()
    const hosts = []
    const left_out = []
    for (const { preference, exchange } of rows.sort((a, b) => a.preference - b.preference)) {
        const host = exchange.toLowerCase().replace(/\.$/, '')
        try {
            const records = found.secure ? await this.tlsa(host) : null
            if (records) demands.set(host, { records, policy: tlsa_policy(records, domain, host) })
            else if (enforced && !permits(enforced.mx, host)) throw new Error('not in the MTA-STS policy')
            else if (enforced) demands.set(host, { policy })
            hosts.push({ exchange: host, priority: preference })
        } catch (error) {
            left_out.push(`${host}: ${error.message}`)
            const unsigned = error instanceof Unanswered
            told({
                policy: unsigned ? { 'policy-type': 'tlsa', 'policy-domain': domain, 'mx-host': [host] } : policy,
                result: unsigned ? 'dnssec-invalid' : 'validation-failure',
                mx: host,
            })
        }
    }
    if (!hosts.length) throw new Error(left_out.join('; '))
    return { hosts: demands.size || left_out.length ? hosts : null, demands, policy }
}

class Unanswered extends Error {}

// Return the usable TLSA records of *host*, null when it has none; throw when that can't be found out, as an attacker
// could see to that (RFC 7672 section 2.1).
exports.tlsa = async function (host) {
    const address = await this.resolver.ask(host, 'A')
    if (!['NOERROR', 'NXDOMAIN'].includes(address.rcode)) throw new Unanswered(`A: ${address.rcode}`)
    if (!address.secure) return null
    const found = await this.resolver.ask(`_25._tcp.${host}`, 'TLSA')
    if (!['NOERROR', 'NXDOMAIN'].includes(found.rcode)) throw new Unanswered(`TLSA: ${found.rcode}`)
    return found.secure && found.rows.length ? dane.usable(found.rows) : null
}

// Both kinds of policy as reports have them (RFC 8460 section 4.4).
const sts = ({ text, mx }, domain) => ({
    'policy-type': 'sts',
    'policy-string': (text || '').split(/\r?\n/).filter(Boolean),
    'policy-domain': domain,
    'mx-host': mx,
})
const tlsa_policy = (records, domain, host) => ({
    'policy-type': 'tlsa',
    'policy-string': records.map(
        ({ usage, selector, matchingType, certificate }) =>
            `${usage} ${selector} ${matchingType} ${certificate.toString('hex')}`,
    ),
    'policy-domain': domain,
    'mx-host': [host],
})

// Hosts are looked up before they are connected to.
const name_of = (mx) => (mx.from_dns || mx.exchange || '').toLowerCase()

// See to it that *hmail* goes to no host that does not meet its demand, and that each session is *told* of.
function demand(hmail, { demands, policy }, told) {
    hmail.get_force_tls = (mx) => demands.has(name_of(mx))
    const deliver = hmail.try_deliver_host_on_socket
    hmail.try_deliver_host_on_socket = function (mx, host, port, socket) {
        const own = demands.get(name_of(mx))
        if (own?.records) judged_by_dane(socket, own.records, name_of(mx))
        witness(socket, Boolean(own), (result) =>
            told({ policy: own?.policy || policy, result, mx: name_of(mx), ip: host, from: socket.localAddress }),
        )
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
