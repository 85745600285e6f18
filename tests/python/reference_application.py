"""A server application that is notified by reference: it fetches the upload from the URL that it
is given and leaves its SHA-256 and size at the other. Prints its port."""
import hashlib
import http.server
import urllib.request


class Application(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        with urllib.request.urlopen(self.headers["BITS-Request-DataFile-Name"], timeout=60) as upload:
            while chunk := upload.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        reply = f"{digest.hexdigest()} {size}".encode()
        # Azure wants to know what kind of blob it is; the others ignore it.
        put = urllib.request.Request(self.headers["BITS-Response-DataFile-Name"], data=reply, method="PUT",
                                     headers={"x-ms-blob-type": "BlockBlob", "Content-Type": ""})
        urllib.request.urlopen(put, timeout=60).close()
        self.send_response(200)
        self.send_header("BITS-Copy-File-To-Destination", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
print(server.server_port, flush=True)
server.serve_forever()
