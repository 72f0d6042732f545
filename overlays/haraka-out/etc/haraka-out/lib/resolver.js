'use strict'
// Ask the host's validating resolver, and learn whether the answer was signed: Node's own resolver does not tell.

const crypto = require('node:crypto')
const dgram = require('node:dgram')
const net = require('node:net')

const PORT = 53
const ATTEMPTS = 3
const ANSWER_MS = 5000
const UDP_BYTES = 1232 // DNS flag day 2020

class Resolver {
    // *packet* encodes and decodes messages (dns-packet).
    constructor(packet, server) {
        this.packet = packet
        this.server = server
    }

    // Return {rcode, secure, rows}: the data of the records of *type* that *name* has, and whether they were validated.
    async ask(name, type) {
        const question = {
            type: 'query',
            id: crypto.randomInt(65536),
            flags: this.packet.RECURSION_DESIRED | this.packet.AUTHENTIC_DATA,
            questions: [{ type, name }],
            additionals: [{ type: 'OPT', name: '.', udpPayloadSize: UDP_BYTES, flags: 0, options: [] }],
        }
        for (let attempt = 1; ; attempt++) {
            try {
                let answer = await this.byDatagram(question)
                if (answer.flag_tc) answer = await this.byStream(question)
                const rows = answer.answers.filter((row) => row.type === type).map((row) => row.data)
                return { rcode: answer.rcode, secure: answer.flag_ad, rows }
            } catch (error) {
                if (attempt === ATTEMPTS) throw new Error(`${type} of ${name}: ${error.message}`)
            }
        }
    }

    byDatagram(question) {
        return new Promise((resolve, reject) => {
            const socket = dgram.createSocket('udp4')
            const end = (settle, value) => {
                clearTimeout(timer)
                socket.close()
                settle(value)
            }
            const timer = setTimeout(() => end(reject, new Error('the resolver does not answer')), ANSWER_MS)
            socket.on('error', (error) => end(reject, error))
            socket.on('message', (message) => {
                const answer = this.decoded(message, question)
                if (answer) end(resolve, answer)
            })
            socket.connect(PORT, this.server, () => socket.send(this.packet.encode(question)))
        })
    }

    byStream(question) {
        return new Promise((resolve, reject) => {
            const socket = net.connect({ port: PORT, host: this.server, timeout: ANSWER_MS })
            let received = Buffer.alloc(0)
            socket.on('timeout', () => socket.destroy(new Error('the resolver does not answer')))
            socket.on('error', reject)
            socket.on('connect', () => socket.write(this.packet.streamEncode(question)))
            socket.on('data', (data) => {
                received = Buffer.concat([received, data])
                if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return
                socket.destroy()
                const answer = this.decoded(received.subarray(2), question)
                if (answer) resolve(answer)
                else reject(new Error('the resolver answered something else'))
            })
        })
    }

    decoded(message, { id }) {
        try {
            const answer = this.packet.decode(message)
            return answer.type === 'response' && answer.id === id ? answer : null
        } catch {
            return null
        }
    }
}

module.exports = { Resolver }
