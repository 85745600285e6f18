"""A client that logs in by NTLM with pyspnego, and says what it was answered.

ntlm.py PORT SCHEME PROTOCOL USER PASSWORD FILE

Logs in with a Create-Session on one connection, and goes on there without credentials: the first
half of FILE. Logs in again on another connection with a Fragment, whose body goes along each time,
and closes there. Prints a line for each answer.
"""

import base64
import http.client
import sys

import spnego

PATH = "/upload/ntlm.bin"
PROTOCOL = "{7df0354d-249b-430f-820d-3d2a9bef4931}"


def main(port, scheme, protocol, user, password, file):
    body = open(file, "rb").read()
    half, total = len(body) // 2, len(body)
    login = lambda: spnego.client(
        user, password, hostname="localhost", service="HTTP", protocol=protocol,
        options=spnego.NegotiateOptions.use_ntlm,
    )

    one = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    created = send(one, "Create-Session", {"BITS-Supported-Protocols": PROTOCOL}, b"", scheme, login())
    session = {"BITS-Session-Id": created.getheader("BITS-Session-Id", "")}
    first = dict(session, **{"Content-Range": f"bytes 0-{half - 1}/{total}"})
    send(one, "Fragment", first, body[:half])

    two = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    rest = dict(session, **{"Content-Range": f"bytes {half}-{total - 1}/{total}"})
    send(two, "Fragment", rest, body[half:], scheme, login())
    send(two, "Close-Session", session, b"")


def send(connection, kind, headers, body, scheme=None, login=None):
    token = login.step() if login else None
    socket = None
    while True:
        extra = {"Authorization": f"{scheme} {base64.b64encode(token).decode()}"} if token else {}
        connection.request("BITS_POST", PATH, body, {"BITS-Packet-Type": kind, **headers, **extra})
        assert socket in (None, connection.sock), "the connection was kept"
        socket = connection.sock
        answer = connection.getresponse()
        answer.read()
        offered = [value.split(" ") for value in answer.headers.get_all("WWW-Authenticate", [])]
        print(kind, answer.status, *sorted(value[0] + ("+" if len(value) > 1 else "") for value in offered))
        given = next((value[1] for value in offered if value[0] == scheme and len(value) > 1), None)
        token = login.step(base64.b64decode(given)) if login and given and not login.complete else None
        if answer.status != 401 or not token:
            return answer


main(*sys.argv[1:])
