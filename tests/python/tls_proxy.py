"""Stands between a client and a PostgreSQL server, and could read along: TLS ends here, and begins anew to the server.

tls_proxy.py PORT CERTIFICATE KEY

PORT is the server's at 127.0.0.1. Prints the port where it listens itself; ends with its standard input.
"""

import socket
import ssl
import struct
import sys
import threading

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client, port, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    assert client.recv(8, socket.MSG_WAITALL) == SSL_REQUEST
    client.sendall(b"S")
    client = context.wrap_socket(client, server_side=True)
    server = socket.create_connection(("127.0.0.1", port))
    server.sendall(SSL_REQUEST)
    assert server.recv(1) == b"S"
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    server = trusting.wrap_socket(server)
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
    pump(client, server)


def accept(listener, *settings):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, *settings), daemon=True).start()


port, certificate, key = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener, int(port), certificate, key), daemon=True).start()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
