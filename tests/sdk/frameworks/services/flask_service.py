"""The walk's service on Flask: ``gunicorn --preload flask_service:app``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from flask import Flask, Response, jsonify

from authix import WhenStale
from authix.flask import FlaskAuthix, current_claims

app = Flask(__name__)
auth = FlaskAuthix(app)


def said() -> Response:
    return jsonify(subject=current_claims.subject, session=current_claims.session, roles=sorted(current_claims.roles))


@app.get("/open")
def open_to_all() -> Response:
    return jsonify(ready=auth.verifier.ready())


@app.get("/me")
@auth.required()
def me() -> Response:
    return said()


@app.get("/admin")
@auth.required(roles=["admin"])
def admin() -> Response:
    return said()


@app.get("/lax")
@auth.required(when_stale=WhenStale.ACCEPT)
def lax() -> Response:
    return said()


@app.get("/events")
@auth.required()
def events() -> Response:
    def tell(subject: str) -> Iterator[str]:
        yield f"data: {subject}\n\n"
        while True:
            time.sleep(0.05)
            yield "data: tick\n\n"

    return Response(auth.guard(tell(current_claims.subject)), mimetype="text/event-stream")


@app.after_request
def name_worker(response: Response) -> Response:
    response.headers["X-Worker"] = str(os.getpid())
    return response
