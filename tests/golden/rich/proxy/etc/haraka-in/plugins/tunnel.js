'use strict'
// Pass each recipient and each message on to the client's Postfix while the sender waits, and answer what it answers.
//
// Nothing is kept here: what the client does not take now stays with the sender, who tries again. The client is told
// who the sender is by XCLIENT; without it mail is deferred, as the client would judge (and trust) us instead.
// Haraka's own forwarders were left aside: they lose the sender's address with IPv6, hold the sender for half a minute
// when the client is away, and one of them finds unknown recipients only after the whole message.

const net = require('node:net')
const path = require('node:path')
const { Dialogue, Lost } = require(path.join(__dirname, '../lib/dialogue.js'))
const { attributes } = require(path.join(__dirname, '../lib/xclient.js'))
const { namesOf } = require(path.join(__dirname, '../lib/names.js'))

const UNREACHABLE = '4.4.1 The mailbox server is unreachable, try again later'
const FROM_INSIDE = '5.7.1 Mail from an address that nobody outside has'
const NO_SMTPUTF8 = '5.6.7 The mailbox server takes no internationalized addresses'

exports.register = function () {
    const settings = this.config.get('tunnel.ini').main
    this.host = settings.host
    this.port = parseInt(settings.port, 10)
    this.hello = settings.hello
    this.postmaster = settings.postmaster
    this.inside = new net.BlockList()
    for (const network of settings.refused_networks.split(' ')) {
        const [address, prefix] = network.split('/')
        this.inside.addSubnet(address, parseInt(prefix, 10), net.isIPv6(address) ? 'ipv6' : 'ipv4')
    }
}

// The words that Haraka itself uses for the names it does not know.
exports.hook_lookup_rdns = (next, connection) => {
    namesOf(connection.remote.ip).then((names) => {
        connection.notes.names = names
        next(OK, names.name || (names.error ? 'DNSERROR' : 'NXDOMAIN'))
    })
}

exports.hook_mail = (next, connection, [, parameters]) => {
    connection.transaction.notes.mail_parameters = parameters || {}
    next()
}

// RFC 5321 section 4.5.1
exports.hook_rcpt = (next, connection, [recipient]) => {
    next(!recipient.host && /^postmaster$/i.test(recipient.user) ? OK : CONT)
}

// The client is asked from the first recipient on: probes for open relays never reach the tunnel.
exports.hook_rcpt_ok = function (next, connection, recipient) {
    const { ip } = connection.remote
    if (this.inside.check(ip, net.isIPv6(ip) ? 'ipv6' : 'ipv4')) return next(DENY, FROM_INSIDE)
    this.pass_on(next, connection, async (notes) => {
        notes.upstream ??= this.upstream(connection)
        const { dialogue, refusal } = await notes.upstream.ready
        if (refusal) return refusal
        const to = recipient.host ? recipient.format(!notes.upstream.utf8) : `<${this.postmaster}>`
        return dialogue.command(`RCPT TO:${to}`)
    })
}

// DATA goes to the client only when the message is here, so that a slow sender does not hold it in mid-message.
exports.hook_queue = function (next, connection) {
    this.pass_on(next, connection, async (notes) => {
        const { dialogue } = await notes.upstream.ready
        const permission = await dialogue.command('DATA')
        if (permission.code !== 354) return permission
        const reply = await dialogue.message(connection.transaction.message_stream)
        dialogue.close()
        return reply
    })
}

// Every way in which a transaction ends: done, RSET, a new greeting, the connection gone.
exports.hook_reset_transaction = (next, connection) => {
    const upstream = connection.transaction?.notes.upstream
    if (upstream) upstream.end()
    next()
}

// Answer the sender with the reply that *ask* gets from the client; whatever goes wrong is a temporary failure.
exports.pass_on = function (next, connection, ask) {
    ask(connection.transaction.notes).then(
        (reply) => {
            if (reply.positive) next(OK, reply.text)
            else next(reply.permanent ? DENY : DENYSOFT, reply.text)
        },
        (error) => {
            if (error instanceof Lost) connection.lognotice(this, `client unreachable: ${error.message}`)
            else connection.logerror(this, `failed: ${error.stack}`)
            next(DENYSOFT, UNREACHABLE)
        },
    )
}

// Begin a dialogue for the connection's transaction; `ready` becomes {dialogue, refusal}, the latter null or the reply
// by which the client refuses the sender.
exports.upstream = function (connection) {
    const dialogue = new Dialogue(this.host, this.port)
    const upstream = { utf8: false, ready: null, end: () => dialogue.close() }
    upstream.ready = this.introduce(dialogue, connection, upstream).then(
        (refusal) => ({ dialogue, refusal }),
        (error) => {
            dialogue.abort()
            throw error
        },
    )
    return upstream
}

// Tell the client who the sender is and from whom the message comes; return the reply that refuses it, or null.
exports.introduce = async function (dialogue, connection, upstream) {
    const { transaction, hello, remote, notes } = connection
    const { mail_from: from } = transaction
    const parameters = transaction.notes.mail_parameters

    await dialogue.open()
    const { offered } = await dialogue.extensions(this.hello)
    const sender = {
        ip: remote.ip,
        port: remote.port,
        name: notes.names?.name,
        reverseName: notes.names?.reverseName,
        nameError: notes.names?.error,
        esmtp: hello.verb === 'EHLO',
        helo: hello.host,
    }
    const told = attributes(sender, offered?.get('XCLIENT') || [])
    if (!told) throw new Lost('no XCLIENT offered')
    const accepted = await dialogue.command(`XCLIENT ${told}`)
    if (accepted.code !== 220) throw new Lost(`XCLIENT was answered ${accepted.code} ${accepted.text}`)

    // From here on the client speaks to the sender, and its refusals are the sender's to hear.
    const greeted = await this.greet(dialogue, sender)
    if (!greeted.offered) return greeted.reply
    upstream.utf8 = 'SMTPUTF8' in parameters
    if (upstream.utf8 && !greeted.offered.has('SMTPUTF8')) return { permanent: true, text: NO_SMTPUTF8 }
    const arguments_ = [`FROM:${from.format(!upstream.utf8)}`]
    if (upstream.utf8) arguments_.push('SMTPUTF8')
    if (greeted.offered.has('SIZE') && /^\d{1,12}$/.test(parameters.SIZE)) arguments_.push(`SIZE=${parameters.SIZE}`)
    if (greeted.offered.has('8BITMIME') && /^8BITMIME$/i.test(parameters.BODY)) arguments_.push('BODY=8BITMIME')
    const reply = await dialogue.command(`MAIL ${arguments_.join(' ')}`)
    return reply.positive ? null : reply
}

exports.greet = async (dialogue, sender) => {
    if (sender.esmtp) return dialogue.extensions(sender.helo)
    const reply = await dialogue.command(`HELO ${sender.helo}`)
    return { reply, offered: reply.positive ? new Map() : null }
}
