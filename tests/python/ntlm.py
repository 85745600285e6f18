"""A client that logs in by NTLM with pyspnego, and says what it was answered.

ntlm.py PORT SCHEME PROTOCOL USER PASSWORD FILE [EXPECT]

Logs in with a Create-Session on one connection, and goes on there without credentials: the first
half of FILE. Logs in again on another connection with a Fragment, whose body goes along each time,
and closes there. Prints a line for each answer.

With EXPECT the bodies come with `Expect: 100-continue`: "wait" sends them only when they are asked
for, "impatient" at once. The login then begins only when it is asked for.
"""

import base64
import http.client
import socket
import sys

import spnego

PATH = "/upload/ntlm.bin"
PROTOCOL = "{7df0354d-249b-430f-820d-3d2a9bef4931}"


def main(port, scheme, protocol, user, password, file, expect=""):
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
    send(two, "Fragment", rest, body[half:], scheme, login(), expect)
    send(two, "Close-Session", session, b"")


def send(connection, kind, headers, body, scheme=None, login=None, expect=""):
    # Without a token first, as a client does that does not know what it will be asked for.
    token, known = b"" if expect else login.step() if login else None, not expect
    before = None
    while True:
        extra = {"Authorization": f"{scheme} {base64.b64encode(token).decode()}"} if token else {}
        request(connection, body, {"BITS-Packet-Type": kind, **headers, **extra}, expect)
        assert before in (None, connection.sock), "the connection was kept"
        before = connection.sock
        answer = connection.getresponse()
        answer.read()
        offered = [value.split(" ") for value in answer.headers.get_all("WWW-Authenticate", [])]
        print(kind, answer.status, *sorted(value[0] + ("+" if len(value) > 1 else "") for value in offered))
        given = next((value[1] for value in offered if value[0] == scheme and len(value) > 1), None)
        token = login.step(base64.b64decode(given)) if login and given and not login.complete else None
        if not known:
            token, known = login.step(), True
        if answer.status != 401 or not token:
            return answer


def request(connection, body, headers, expect):
    if not expect:
        return connection.request("BITS_POST", PATH, body, headers)
    connection.putrequest("BITS_POST", PATH)
    for name, value in {**headers, "Content-Length": str(len(body)), "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    if expect == "wait":
        status = connection.sock.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert status == b"HTTP/1.1 100", f"asked for the body, and not {status}"
    connection.send(body)


main(*sys.argv[1:])
