"""A little OAuth issuer: metadata, keys and tokens, over real HTTP."""

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "https://milvus.example/mcp"
METADATA = "/.well-known/oauth-authorization-server"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
FOREIGN_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Issuer:
    url: str
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.answers[METADATA] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.publish("one", "two")

    def publish(self, *names: str) -> None:
        """Publishes the RSA key under the first name, and the EC key under the second."""
        keys = (RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), public_ec())
        self.answers["/keys"] = {"keys": [{**key, "kid": name} for key, name in zip(keys, names, strict=False)]}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "exp": now + 300, "nbf": now, "scope": "openid read"}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, *, key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(self.claims(**changes), key, algorithm, headers=headers)


def public_ec() -> dict[str, Any]:
    return ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True)


@contextmanager
def issuing() -> Generator[Issuer]:
    """An issuer that answers while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            known = self.path in issuer.answers
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(issuer.answers.get(self.path)).encode())

        def log_message(self, format: str, *_: Any) -> None:  # noqa: A002  # as in http.server
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
