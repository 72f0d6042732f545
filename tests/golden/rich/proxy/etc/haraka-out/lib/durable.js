'use strict'
// What a folder holds is on the disk, not only on its way there.

const fs = require('node:fs/promises')

// Wait until the files that were put into *folder*, or taken out of it, are so for good (fsync(2), of the folder).
async function settle(folder) {
    const handle = await fs.open(folder, 'r')
    try {
        await handle.sync()
    } finally {
        await handle.close()
    }
}

module.exports = { settle }
