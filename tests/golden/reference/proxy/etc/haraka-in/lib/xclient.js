'use strict'
// What the client is told about the sender: the attributes of Postfix's XCLIENT command. Pure.

// RFC 1123 section 2.1, and the underscore that Postfix allows too: any other name would make it refuse the command.
const HOST_NAME = /^(?=.{1,255}$)(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*$/i
// Postfix refuses a longer HELO attribute.
const LONGEST_HELO = 255

// RFC 3461 section 4: everything but visible ASCII, and "+" and "=", becomes "+" and two hexadecimal digits. A
// sender's HELO can thus neither end the command nor add an attribute.
function xtext(value) {
    let encoded = ''
    for (const byte of Buffer.from(String(value), 'utf8')) {
        const visible = byte >= 33 && byte <= 126 && byte !== 0x2b && byte !== 0x3d
        encoded += visible ? String.fromCharCode(byte) : `+${byte.toString(16).toUpperCase().padStart(2, '0')}`
    }
    return encoded
}

// An IPv4 address as it is, also when the dual-stack socket shows it mapped into IPv6; IPv6 with Postfix's prefix.
function address(ip) {
    const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)
    if (mapped) return mapped[1]
    return ip.includes(':') ? `IPV6:${ip.replace(/%.*$/, '')}` : ip
}

function hostName(name, unavailable) {
    return name && HOST_NAME.test(name) ? xtext(name) : unavailable
}

function helo(name) {
    return name && Buffer.byteLength(name) <= LONGEST_HELO ? xtext(name) : '[UNAVAILABLE]'
}

// Return the arguments of XCLIENT for *sender* ({ip, port, name, reverseName, nameError, esmtp, helo}), or null when
// the server does not offer (*offered*: names of attributes) the one that everything depends on.
function attributes(sender, offered) {
    if (!offered.includes('ADDR')) return null
    const port = Number(sender.port)
    const values = {
        NAME: hostName(sender.name, sender.nameError ? '[TEMPUNAVAIL]' : '[UNAVAILABLE]'),
        REVERSE_NAME: hostName(sender.reverseName, sender.nameError ? '[TEMPUNAVAIL]' : '[UNAVAILABLE]'),
        ADDR: address(sender.ip),
        PORT: port > 0 && port < 65536 ? String(port) : '[UNAVAILABLE]',
        PROTO: sender.esmtp ? 'ESMTP' : 'SMTP',
        HELO: helo(sender.helo),
    }
    return Object.keys(values)
        .filter((name) => offered.includes(name))
        .map((name) => `${name}=${values[name]}`)
        .join(' ')
}

module.exports = { address, attributes, xtext }
