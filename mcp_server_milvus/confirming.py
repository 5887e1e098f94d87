"""Calls that destroy are confirmed before they do anything: by the user, or by a second call with a signed token.

The user is asked where the client can ask one: in the modern protocol the question is the answer to the call, which
the client then repeats; in the older ones it is a request in between, where there is a way back to the client. Whoever
cannot be asked confirms with the token that the refusal of the first call brings. Whatever goes wrong on the way, the
call is not carried out.
"""

import json
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from mcp.server.context import ServerRequestContext
from mcp.server.request_state import InvalidRequestState, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from mcp_server_milvus.app import App
from mcp_server_milvus.content import cleaned
from mcp_server_milvus.errors import Denied, InvalidArgument, Unconfirmed
from mcp_server_milvus.redaction import Secrets
from mcp_server_milvus.signing import Bound
from mcp_server_milvus.text.visible import visible
from mcp_server_milvus.tool import CONFIRM, Input, Loss, Tool
from mcp_server_milvus.vocabulary import Confirm

BY_TOKEN, BY_USER = "token", "user"
"""What a signature is good for: one that a client carries to and fro with a question is no token of the model's."""

ANSWER = {"type": "object", "properties": {CONFIRM: {"type": "boolean", "title": "Go on"}}, "required": [CONFIRM]}

CANNOT_ASK = frozenset({METHOD_NOT_FOUND, INVALID_REQUEST, INVALID_PARAMS})
"""Errors of a client that does not know such questions. Any other may be its way to say that the user refuses."""

LONGEST_SENTENCE = 700
LONGEST_ENTITY = 300
"""Characters in a question."""

STATE_SECONDS = 24 * 3_600.0
"""How long the SDK takes a question's state: longer than any confirmation, which says itself when it is over."""

Asking = ServerRequestContext[Any, Any]


async def confirmed(
    tool: Tool[Any, Any], app: App, args: Input, token: object, context: Asking | None
) -> InputRequiredResult | None:
    """None, if the call may go on; what the client is to ask its user, in the protocol that has it as an answer.

    Raises:
        Unconfirmed: nobody has confirmed it yet; the details say what would be lost, and hold a token to confirm with.
        Denied: the user has declined, or cannot be asked and has to be.
        InvalidArgument: the token is no text.
    """
    if token is not None and not isinstance(token, str):
        raise InvalidArgument(f"{tool.name}: {CONFIRM}: a text was expected, got {type(token).__name__}")
    if not tool.is_confirmed or app.settings.confirm is Confirm.NEVER:
        return None
    loss = await _loss(tool, app, args)
    if loss is None:
        return None
    return await _Confirmation(tool, app, args, loss).sought(token, context)


def state_security() -> RequestStateSecurity:
    """The state of a question goes to the client as it is: it is a signature, which every worker of a server knows."""
    return RequestStateSecurity(codec=_AsItIs(), ttl=STATE_SECONDS)


@dataclass(frozen=True)
class _Confirmation:
    """One call that would destroy something, on its way to being confirmed."""

    tool: Tool[Any, Any]
    app: App
    args: Input
    loss: Loss

    async def sought(self, token: str | None, context: Asking | None) -> InputRequiredResult | None:
        """None once it is confirmed, or a question for the user."""
        way = self.app.settings.confirm
        problem = ""
        if token and way is not Confirm.ELICIT:
            if not (flaw := await self._taken(token, BY_TOKEN)):
                return None
            problem = f"the token was not taken: {flaw}"
        if way is not Confirm.TOKEN and context is not None and _has_a_user(context):
            if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
                return await self._consent_or_question(context, problem)
            if context.session.can_send_request and await self._agreed_to(context, problem):
                return None
        raise await self._refusal(problem)

    async def _consent_or_question(self, context: Asking, problem: str) -> InputRequiredResult | None:
        """None, if what came back with the repeated call is the user's consent to just this; else the question."""
        given = CallToolRequestParams.model_validate(context.params, by_name=False)
        answer = (given.input_responses or {}).get(CONFIRM)
        if answer is not None:
            flaw = await self._taken(given.request_state or "", BY_USER)
            _require_consent(self.tool, answer)
            if not flaw:
                return None
            problem = f"the last answer was not taken: {flaw}"
        form = ElicitRequestFormParams(message=self._question(problem), requested_schema=ANSWER)
        return InputRequiredResult(
            input_requests={CONFIRM: ElicitRequest(params=form)}, request_state=await self._token(BY_USER)
        )

    async def _agreed_to(self, context: Asking, problem: str) -> bool:
        """Whether the user has agreed; False where the client could not ask.

        Raises:
            Denied: the user has not.
            Unconfirmed: something else would be lost by now.
        """
        try:
            with self.app.gate.left(), anyio.fail_after(self.app.settings.confirm_seconds):
                answer = await context.session.elicit_form(self._question(problem), ANSWER, context.request_id)
        except TimeoutError:
            raise _declined(self.tool, "the user has not answered in time") from None
        except ValidationError:
            raise _declined(self.tool, "the client's answer was none") from None
        except MCPError as failure:
            if failure.code in CANNOT_ASK:
                return False
            raise _declined(self.tool, "the client has failed to ask the user") from None
        _require_consent(self.tool, answer)
        now = await _loss(self.tool, self.app, self.args)
        if now is not None and now.state != self.loss.state:
            raise Unconfirmed(
                f"{self.tool.name} has changed nothing: what would be lost has changed while the user was asked",
                hint="call again, if the user still wants it: then it is asked anew",
                **_details(now),
            )
        return True

    async def _refusal(self, problem: str) -> Denied:
        """Why the call is not carried out, with what would be lost, and how to confirm it."""
        begin = f"{self.tool.name} has changed nothing: "
        if self.app.settings.confirm is Confirm.ELICIT:
            return Denied(
                f"{begin}its user has to confirm it, whom this client cannot ask",
                hint="tell the user; the operator decides how calls are confirmed (--confirm)",
                **_details(self.loss),
            )
        return Unconfirmed(
            f"{begin}{problem or 'it has to be confirmed first'}",
            hint=f"only if this is what the user wants: call again with the same arguments and this {CONFIRM}",
            **_details(self.loss),
            confirm=await self._token(BY_TOKEN),
            expires_in_seconds=round(self.app.settings.confirm_seconds),
        )

    def _question(self, problem: str) -> str:
        """What the user reads: lines of ours, in which what comes from elsewhere is quoted, visible and short."""
        secrets = self.app.policy.secrets
        sample = cleaned(self.loss.preview.get("sample", []), secrets)
        return "\n".join(
            [
                *([f"Asked again: {problem}."] if problem else []),
                f"The agent calls {self.tool.name}, which destroys data:",
                _line(self.loss.what, LONGEST_SENTENCE, secrets),
                *(f"For example {_line(_json(each), LONGEST_ENTITY, secrets)}" for each in sample),
                f"Afterwards: {_line(self.loss.undo, LONGEST_SENTENCE, secrets)}.",
                "Nothing is done unless you agree.",
            ]
        )

    async def _token(self, by: str) -> str:
        bound = await self._bound(by)
        return await self.app.signatures.token(bound, self.app.settings.confirm_seconds)

    async def _taken(self, token: str, by: str) -> str:
        """What is wrong with the token, or nothing: then it is used up."""
        return await self.app.signatures.taken(token, await self._bound(by))

    async def _bound(self, by: str) -> Bound:
        """What a token for this call is good for: nothing but this, for nobody else, on no other Milvus."""
        app = self.app
        milvus = app.settings.uri or str(app.settings.data_dir.expanduser().absolute())
        db_name = app.database(getattr(self.args, "db_name", None))
        caller = await app.caller_name()

        def digests() -> Bound:
            call = [by, self.tool.name, self.args.model_dump(), caller, milvus, db_name]
            return Bound.of(call, self.loss.state)

        return await anyio.to_thread.run_sync(digests)


class _AsItIs:
    """No cryptography of the SDK's: what it would seal is signed already, and no secret."""

    def seal(self, payload: bytes) -> str:
        return payload.decode()

    def unseal(self, token: str) -> bytes:
        try:
            return token.encode()
        except UnicodeEncodeError:
            raise InvalidRequestState("half a character") from None


async def _loss(tool: Tool[Any, Any], app: App, args: Input) -> Loss | None:
    """What the call would destroy; where that is not told, or not for this caller, only its name and arguments."""
    loss = await tool.loses(app, args) if tool.loses else None
    if tool.loses and (loss is None or app.policy.may_read):
        return loss
    named = _json(args.model_dump(mode="json", exclude_unset=True))
    what = f"Calls {tool.name} with {visible(named)[:LONGEST_SENTENCE]}."
    return Loss(what, loss.state, undo=loss.undo) if loss else Loss(what, ())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _details(loss: Loss) -> dict[str, Any]:
    return {"what": loss.what, **loss.preview, "undo": loss.undo}


def _has_a_user(context: Asking) -> bool:
    """Whether the client says that it can show its user a form. To say no more than `elicitation` means that."""
    capabilities = context.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _line(text: str, most: int, secrets: Secrets) -> str:
    """The text on one line, visible, without secrets and not too long."""
    shown = " ".join(secrets.masked_content(visible(text)).split())
    return shown if len(shown) <= most else f"{shown[:most]}…"


def _require_consent(tool: Tool[Any, Any], answer: object) -> None:
    """Nothing, if it is the user's consent, and that only.

    Raises:
        Denied: it is anything else.
    """
    if not isinstance(answer, ElicitResult) or answer.action == "cancel":
        raise _declined(tool, "the user has not agreed")
    if answer.action != "accept" or (answer.content or {}).get(CONFIRM) is not True:
        raise _declined(tool, "the user has declined")


def _declined(tool: Tool[Any, Any], reason: str) -> Denied:
    return Denied(
        f"{tool.name} has changed nothing: {reason}",
        hint="do not call it again unless the user asks for it",
    )
