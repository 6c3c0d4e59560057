"""What is Flask's own: settings of the application, several applications, blueprints' errors, async and class views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from flask import Flask, Response, abort
from flask.testing import FlaskClient
from flask.views import MethodView
from werkzeug.test import TestResponse

from authix import SettingsError, TokenError, WhenStale
from authix.bearer import PROBLEM_JSON
from authix.flask import FlaskAuthix, current_claims
from authix.testing import InProcessIssuer


@pytest.fixture
def app(tokens: InProcessIssuer) -> Flask:
    return Flask("service")


def client_of(app: Flask) -> FlaskClient:
    return app.test_client()


def said(answer: TestResponse) -> tuple[int, str]:
    if answer.mimetype == PROBLEM_JSON:
        assert answer.json is not None
        return answer.status_code, answer.json["code"]
    return answer.status_code, answer.text


def test_the_applications_settings_go_before_the_environments(app: Flask, tokens: InProcessIssuer) -> None:
    app.config.update(AUTHIX_AUDIENCE="billing", AUTHIX_STALE_AFTER=30)
    auth = FlaskAuthix(app, stale_after=60)

    @app.get("/me")
    @auth.required()
    def me() -> str:
        return current_claims.subject

    with app.app_context():
        settings = auth.verifier.settings
    assert (settings.issuer, settings.audience, settings.stale_after) == ("https://auth.example.com", "billing", 60)
    assert said(client_of(app).get("/me", headers=tokens.issue("ada").headers)) == (401, "audience_wrong")
    assert said(client_of(app).get("/me", headers=tokens.issue("ada", aud="billing").headers)) == (200, "ada")


def test_a_wrong_setting_is_told_when_the_application_is_made(app: Flask) -> None:
    app.config["AUTHIX_LEEWAY"] = "long"
    with pytest.raises(SettingsError, match="AUTHIX_LEEWAY"):
        FlaskAuthix(app)


def test_one_extension_serves_several_applications(tokens: InProcessIssuer) -> None:
    def me() -> str:
        return current_claims.subject

    auth = FlaskAuthix()
    apps = {}
    for audience in ("orders", "billing"):
        app = apps[audience] = Flask(audience)
        app.config["AUTHIX_AUDIENCE"] = audience
        auth.init_app(app)
        app.add_url_rule("/me", "me", auth.required()(me))
    token = tokens.issue("ada", aud="billing")
    assert said(client_of(apps["billing"]).get("/me", headers=token.headers)) == (200, "ada")
    assert said(client_of(apps["orders"]).get("/me", headers=token.headers)) == (401, "audience_wrong")


def test_a_view_may_be_a_coroutine_or_a_class(app: Flask, tokens: InProcessIssuer) -> None:
    auth = FlaskAuthix(app)

    @app.get("/async")
    @auth.required()
    async def coroutine() -> str:
        return current_claims.subject

    class Me(MethodView):
        decorators = [auth.required(roles=["admin"])]  # noqa: RUF012 - as Flask has it

        def get(self) -> str:
            return current_claims.subject

    app.add_url_rule("/class", view_func=Me.as_view("me"))
    ada, root = tokens.issue("ada"), tokens.issue("root", roles=["admin"])
    assert said(client_of(app).get("/async", headers=ada.headers)) == (200, "ada")
    assert said(client_of(app).get("/async")) == (401, "token_missing")
    assert said(client_of(app).get("/class", headers=ada.headers)) == (403, "role_missing")
    assert said(client_of(app).get("/class", headers=root.headers)) == (200, "root")


def test_everywhere_a_token_is_needed_but_at_public_endpoints(app: Flask, tokens: InProcessIssuer) -> None:
    auth = FlaskAuthix(app, everywhere=True, public=["health"])

    @app.get("/health")
    def health() -> str:
        return "for all"

    @app.get("/me")
    def me() -> str:
        return current_claims.subject

    @app.get("/admin")
    @auth.required(roles=["admin"])
    def admin() -> str:
        return current_claims.subject

    @app.get("/lax")
    @auth.required(when_stale=WhenStale.ACCEPT)
    def lax() -> str:
        return current_claims.subject

    client, ada = client_of(app), tokens.issue("ada")
    assert said(client.get("/health")) == (200, "for all")
    assert [said(client.get(path)) for path in ("/me", "/admin", "/nowhere")] == [(401, "token_missing")] * 3
    assert client.options("/me").status_code == 200, "a preflight brings no token"
    assert said(client.get("/me", headers=ada.headers)) == (200, "ada")
    assert said(client.get("/admin", headers=ada.headers)) == (403, "role_missing")
    assert client.get("/nowhere", headers=ada.headers).status_code == 404
    tokens.go_stale()
    assert said(client.get("/me", headers=ada.headers)) == (503, "feed_stale")
    assert said(client.get("/lax", headers=ada.headers)) == (200, "ada")


def test_an_application_may_answer_a_refusal_in_its_own_way(app: Flask, tokens: InProcessIssuer) -> None:
    auth = FlaskAuthix(app)

    @app.errorhandler(TokenError)
    def answer(error: TokenError) -> tuple[str, int]:
        return f"please log in ({error.code})", 401

    @app.errorhandler(404)
    def missing(_: Exception) -> tuple[str, int]:
        return "not here", 404

    @app.get("/me")
    @auth.required()
    def me() -> str:
        abort(404)

    assert said(client_of(app).get("/me")) == (401, "please log in (token_missing)")
    assert said(client_of(app).get("/me", headers=tokens.issue().headers)) == (404, "not here")


def test_a_guarded_stream_ends_at_the_logout_and_puts_its_source_away(app: Flask, tokens: InProcessIssuer) -> None:
    auth, put_away = FlaskAuthix(app), []

    def tell() -> Iterator[str]:
        try:
            yield "1"
            yield "2"
            tokens.logout("ada")
            yield "3"
        finally:
            put_away.append("source")

    @app.get("/stream")
    @auth.required()
    def stream() -> Response:
        return Response(auth.guard(tell()))

    assert said(client_of(app).get("/stream", headers=tokens.issue("ada").headers)) == (200, "12")
    assert put_away == ["source"]
    assert said(client_of(app).get("/stream", headers=tokens.issue("bob").headers)) == (200, "123")


def test_current_claims_say_when_no_token_was_asked_for(app: Flask) -> None:
    with app.test_request_context(), pytest.raises(RuntimeError, match="no access token was asked"):
        _ = current_claims.subject


def test_claims_are_of_one_request_even_where_all_share_an_application_context(
    app: Flask, tokens: InProcessIssuer
) -> None:
    auth = FlaskAuthix(app)

    @app.get("/me")
    @auth.required()
    def me() -> str:
        return current_claims.subject

    @app.get("/")
    def home() -> str:
        with contextlib.suppress(RuntimeError):
            return current_claims.subject
        return "a stranger"

    with app.app_context():
        assert said(client_of(app).get("/me", headers=tokens.issue("ada").headers)) == (200, "ada")
        assert said(client_of(app).get("/")) == (200, "a stranger")
        with pytest.raises(RuntimeError):
            _ = current_claims.subject


def test_an_applications_own_answer_may_be_there_before_the_extension(app: Flask, tokens: InProcessIssuer) -> None:
    @app.errorhandler(TokenError)
    def answer(error: TokenError) -> tuple[str, int]:
        return f"please log in ({error.code})", 401

    auth = FlaskAuthix()
    auth.init_app(app)

    @app.get("/admin")
    @auth.required(roles=["admin"])
    def admin() -> str:
        return current_claims.subject

    assert said(client_of(app).get("/admin")) == (401, "please log in (token_missing)")
    assert said(client_of(app).get("/admin", headers=tokens.issue("ada").headers)) == (403, "role_missing")
