// The peer @tus/server: `node tus.mjs ADDRESS PORT FOLDER`.
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [host, port, directory] = process.argv.slice(2)
const server = new Server({ path: '/files', datastore: new FileStore({ directory }) })
// Connections wait for each other, and must not be closed meanwhile.
server.listen({ host, port: Number(port) }).keepAliveTimeout = 600_000
