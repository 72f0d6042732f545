'use strict'
// Let no message arrive twice, whenever this process or the power is cut off, but for the one that is just being handed
// over: nobody can know whether the other server took a message whose answer never came.
//
// So there is one such message at a time: the last line of a message is sent only when the one before was answered, and
// what was taken is gone from the disk, for good, before the next. All else (connections, TLS, the messages themselves)
// goes on side by side. Haraka itself hands over as many at once as there are connections, and lets the disk forget
// what was delivered some seconds later.

const fs = require('node:fs/promises')
const path = require('node:path')
const { Turns } = require(path.join(__dirname, '../lib/turns.js'))
const { settle } = require(path.join(__dirname, '../lib/durable.js'))

// What follows the last line of a message (RFC 5321 section 4.1.1.4), as Haraka writes it.
const END = '.\r\n'
// RFC 5321 section 4.5.3.2: milliseconds to wait for the answer to a command, and for that to the end of a message. Who
// waits less sends twice what a thorough server took; Haraka would wait no longer than for a connection.
const COMMAND_MS = 300000
const TAKING_MS = 600000
// A server that takes its time to answer holds up the others once, by this.
const LONGEST_MS = 10000

const turns = new Turns(LONGEST_MS)

exports.hook_send_email = function (next, hmail) {
    let end = () => {}
    const ended = hmail.next_cb
    // Delivered, put off or returned: whatever became of it, it is no longer under way.
    hmail.next_cb = (...result) => {
        end()
        return ended(...result)
    }
    const deliver = Object.getPrototypeOf(hmail).try_deliver_host_on_socket
    const try_again = Object.getPrototypeOf(hmail).try_deliver
    hmail.try_deliver_host_on_socket = function (mx, host, port, socket) {
        const write = socket.write
        socket.write = function (data, ...rest) {
            if (data !== END) return write.call(socket, data, ...rest)
            turns.take().then((done) => {
                // the other server may have given up meanwhile
                if (!socket.writable) return done()
                end = done
                socket.setTimeout(TAKING_MS)
                write.call(socket, data, ...rest)
            })
            return true
        }
        socket.setTimeout(COMMAND_MS)
        return deliver.call(this, mx, host, port, socket)
    }
    // The connection is lost, and the next server's turn.
    hmail.try_deliver = function () {
        end()
        return try_again.call(this)
    }
    next()
}

exports.hook_delivered = function (next, hmail, [, , , , , , taken]) {
    // Some recipients may have to wait; Haraka makes a message of its own for them first.
    if (taken.length < hmail.todo.rcpt_to.length) return next()
    fs.unlink(hmail.path)
        .then(() => settle(path.dirname(hmail.path)))
        .catch((error) => this.logerror(`${hmail.filename} was delivered and stays on the disk: ${error.message}`))
        .then(() => next())
}
