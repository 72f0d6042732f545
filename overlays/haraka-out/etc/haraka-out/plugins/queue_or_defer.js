'use strict'
// Put a message into the queue, or let the client keep it: what can't be written now, as on a full disk, is no reason to
// return it to its sender for good. Haraka itself answers 550 then, as its core does not know the queue's "later". It
// also answers before the name of the file is safe: a power cut right after would lose what the client has forgotten.

const path = require('node:path')
const { settle } = require(path.join(__dirname, '../lib/durable.js'))

exports.hook_queue_outbound = function (next, connection) {
    const outbound = this.haraka_require('outbound')
    const later = (why) => {
        connection.logerror(this, `not queued: ${why}`)
        next(DENYSOFT, '4.3.0 The message could not be queued, try again later')
    }
    outbound.send_trans_email(connection.transaction, (code, why) => {
        if (code === DENY) return next(DENY, why)
        if (code !== OK) return later(why)
        settle(outbound.stats().queue_dir).then(
            () => next(OK, why),
            (error) => later(error.message),
        )
    })
}
