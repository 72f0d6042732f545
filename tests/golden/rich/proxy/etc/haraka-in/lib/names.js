'use strict'
// Which name an address has, when the name has that address too.

const dns = require('node:dns')
const net = require('node:net')

// Milliseconds; a sender waits this long for its greeting when our resolver is silent.
const LONGEST = 4000
const NONE = ['ENOTFOUND', 'ENODATA']

function sameAddress(one, other) {
    const family = net.isIPv6(one) ? 'ipv6' : 'ipv4'
    if (net.isIPv6(other) !== (family === 'ipv6')) return false
    const list = new net.BlockList()
    list.addAddress(one, family)
    return list.check(other, family)
}

async function lookUp(resolver, ip) {
    const [reverseName] = await resolver.reverse(ip)
    if (!reverseName) return { name: null, reverseName: null, error: false }
    const forward = net.isIPv6(ip) ? resolver.resolve6(reverseName) : resolver.resolve4(reverseName)
    const addresses = await forward.catch((error) => {
        if (NONE.includes(error.code)) return []
        throw error
    })
    const confirmed = addresses.some((address) => sameAddress(ip, address))
    return { name: confirmed ? reverseName : null, reverseName, error: false }
}

// Return {name: confirmed or null, reverseName: as the PTR record says or null, error: whether asking failed}.
async function namesOf(ip) {
    const resolver = new dns.promises.Resolver({ timeout: 1500, tries: 2 })
    const timer = setTimeout(() => resolver.cancel(), LONGEST)
    try {
        return await lookUp(resolver, ip)
    } catch (error) {
        return { name: null, reverseName: null, error: !NONE.includes(error.code) }
    } finally {
        clearTimeout(timer)
    }
}

module.exports = { namesOf }
