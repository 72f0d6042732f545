'use strict'
// What becomes of TLS in one session with another server, in the words of RFC 8460 section 4.3.

const FAULTS = {
    CERT_HAS_EXPIRED: 'certificate-expired',
    ERR_TLS_CERT_ALTNAME_INVALID: 'certificate-host-mismatch',
    CERT_UNTRUSTED: 'certificate-not-trusted',
    DEPTH_ZERO_SELF_SIGNED_CERT: 'certificate-not-trusted',
    SELF_SIGNED_CERT_IN_CHAIN: 'certificate-not-trusted',
    UNABLE_TO_GET_ISSUER_CERT: 'certificate-not-trusted',
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'certificate-not-trusted',
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'certificate-not-trusted',
}
const fault = (code) => FAULTS[code] || 'validation-failure'

// Tell *told*, once, the result of the session that begins on *socket*. *demanded*: only a certificate that was verified
// is a success. Put around the socket's upgrade last, as it believes what the one beneath it says.
function witness(socket, demanded, told) {
    let open = true
    const tell = (result) => {
        socket.removeListener('line', listen)
        if (open) told(result)
        open = false
    }
    const answers = ['greeting', 'hello', 'starttls']
    let offered = false
    function listen(line) {
        const [, code, more, rest] = /^(\d{3})([ -]?)(.*)$/.exec(line.trimEnd()) || []
        const answer = answers[0]
        if (answer === 'hello' && code === '250' && /^STARTTLS\b/i.test(rest)) offered = true
        if (more === '-') return
        answers.shift()
        if (answer === 'greeting' && code !== '220') open = false // nobody to talk to
        if (answer === 'hello' && !offered) tell('starttls-not-supported')
        if (answer === 'starttls' && code !== '220') tell('starttls-not-supported')
    }
    socket.on('line', listen)

    const upgrade = socket.upgrade
    socket.upgrade = (options, done) => {
        upgrade(options, (authorized, error, ...more) => {
            tell(authorized || !demanded ? 'success' : fault(error?.code || error))
            done(authorized, error, ...more)
        })
        socket.cleartext?.once('error', (error) => tell(fault(error.code)))
    }
}

module.exports = { witness, fault }
