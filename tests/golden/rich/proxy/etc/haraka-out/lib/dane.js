'use strict'
// Which certificates the TLSA records of a mail server let through (RFC 6698, RFC 7672).

const crypto = require('node:crypto')

const TRUST_ANCHOR = 2
const END_ENTITY = 3
const HASHES = { 1: 'sha256', 2: 'sha512' }

// Return those of *records* that can be used for mail (RFC 7672 section 3.1).
function usable(records) {
    return records.filter(
        ({ usage, selector, matchingType }) =>
            (usage === TRUST_ANCHOR || usage === END_ENTITY) && selector <= 1 && matchingType <= 2,
    )
}

// Return whether one of *records* names the certificate of the server *host*, or one that vouches for it. *chain* are
// X509Certificates, the server's own first. With no usable record, any certificate does (RFC 7672 section 2.2).
function fits(records, chain, host) {
    if (!records.length) return true
    return records.some((record) => {
        // section 3.1.1: neither names nor dates count here, the record says it all
        if (record.usage === END_ENTITY) return named(record, chain[0])
        const anchor = chain.findIndex((certificate, place) => place > 0 && named(record, certificate))
        return anchor > 0 && chain[0].checkHost(host) !== undefined && vouched(chain.slice(0, anchor + 1))
    })
}

function named({ selector, matchingType, certificate: wanted }, certificate) {
    const whole = selector === 0 ? certificate.raw : certificate.publicKey.export({ type: 'spki', format: 'der' })
    const found = matchingType === 0 ? whole : crypto.createHash(HASHES[matchingType]).update(whole).digest()
    return found.equals(wanted)
}

// Return whether each of *chain* is signed by the next, and none is too old or too new.
function vouched(chain) {
    const now = Date.now()
    return chain.every((certificate, place) => {
        const issuer = chain[place + 1]
        const current = Date.parse(certificate.validFrom) <= now && now <= Date.parse(certificate.validTo)
        return current && (!issuer || (certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey)))
    })
}

// Return what the server at the other end of *socket* has shown, its own certificate first.
function chainOf(socket) {
    const chain = []
    let shown = socket.getPeerCertificate(true)
    while (shown?.raw && !chain.some(({ raw }) => raw.equals(shown.raw))) {
        chain.push(new crypto.X509Certificate(shown.raw))
        shown = shown.issuerCertificate
    }
    return chain
}

module.exports = { usable, fits, chainOf }
