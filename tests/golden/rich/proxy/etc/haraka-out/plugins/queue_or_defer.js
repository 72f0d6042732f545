'use strict'
// Put a message into the queue, or let the client keep it: what can't be written now, as on a full disk, is no reason to
// return it to its sender for good. Haraka itself answers 550 then, as its core does not know the queue's "later".

exports.hook_queue_outbound = function (next, connection) {
    const outbound = this.haraka_require('outbound')
    outbound.send_trans_email(connection.transaction, (code, why) => {
        if (code === OK) return next(OK, why)
        connection.logerror(this, `not queued: ${why}`)
        next(code === DENY ? DENY : DENYSOFT, code === DENY ? why : '4.3.0 The message could not be queued, try again later')
    })
}
