'use strict'
// Take up a new certificate without a restart: each connection looks whether the file is another one by now. Dialogues
// that are under way keep theirs. Haraka itself reads key and certificate once, when it starts.

const fs = require('node:fs/promises')
const tls = require('node:tls')

exports.register = function () {
    this.tls = this.haraka_require('tls_socket')
    this.file = this.tls.cfg.main.cert
    this.seen = ''
}

exports.hook_connect = function (next) {
    this.look().then(
        () => next(),
        (error) => {
            this.logerror(`${this.file}: ${error.message}`)
            next()
        },
    )
}

exports.look = async function () {
    const { ino, mtimeMs, size } = await fs.stat(this.file)
    const version = `${ino} ${mtimeMs} ${size}`
    if (version === this.seen) return
    const pem = await fs.readFile(this.file)
    const options = this.tls.certsByHost['*']
    const { SNICallback, secureContext, ...rest } = options
    const context = tls.createSecureContext({ ...rest, key: [pem], cert: [pem] })
    Object.assign(options, { key: [pem], cert: [pem], secureContext: context })
    options.SNICallback = (name, done) => done(null, context)
    this.tls.tls_valid = true
    if (this.seen) this.lognotice('took up a new certificate')
    this.seen = version
}
