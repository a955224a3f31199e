"""Which server holds a key, and questions about many keys at once."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, TypeAlias

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, is_cluster

Question: TypeAlias = tuple[str, Sequence[Any]]
"""(a key, the command and its arguments): the server that holds the key is asked."""
ScriptCall: TypeAlias = tuple[Any, Sequence[str], Sequence[Any]]
"""(a script of register_script(), KEYS, ARGV): the server that holds the first key runs it."""
Silent: TypeAlias = dict[str, Exception]
"""Nodes of a cluster that did not answer, by name, and the error: nothing more is asked of them."""


class Closing(NamedTuple):
    """What each server is asked behind its questions, over the same connection."""

    words: Sequence[Any]
    problem: Callable[[Any], Exception | None]
    """Its answer -> the error that is the answer to all questions then, but those that have one; None: all is
    well."""

    def applied(self, answers: Sequence[Any]) -> list[Any]:
        """The answers to the questions; the last one is to the closing."""
        *answers, last = answers
        problem = last if isinstance(last, Exception) else self.problem(last)
        if problem is None:
            return answers
        return [answer if isinstance(answer, Exception) else problem for answer in answers]


_NO_ANSWER: Final = (RedisConnectionError, RedisTimeoutError)
AWAY: Final = (*_NO_ANSWER, RedisClusterException, ClusterDownError)
"""Errors of a server or of the cluster. Others are of a key, or of what was asked."""
_ELSEWHERE: Final = (AskError, TryAgainError)
"""MOVED (an AskError), ASK, or the slot moves right now."""
_REDIRECTIONS: Final = 8
"""How often what was asked of the wrong node is asked again at once."""
_MOVING_S: Final = 0.05
"""Between two tries while a slot moves."""


def ask(client: RedisClient, questions: Sequence[Question]) -> list[Any]:
    """As ask_each(), but raises one of REDIS_ERRORS where none of the servers that were asked answers."""
    return _answered(ask_each(client, questions))


def run(client: RedisClient, calls: Sequence[ScriptCall]) -> list[Any]:
    """As run_each(), but raises one of REDIS_ERRORS where none of the servers that were asked answers."""
    return _answered(run_each(client, calls))


def ask_each(
    client: RedisClient,
    questions: Sequence[Question],
    closing: Closing | None = None,
    silent: Silent | None = None,
) -> list[Any]:
    """The answers, in order; an error of the server is an answer too.

    One round trip for each server. Where a node of a cluster does not answer, that is the answer to all
    that it was asked, and is waited for once. Raises one of REDIS_ERRORS where no server answers at all. An
    error of a server that did not answer has the seconds that it was waited for, `waited_s`.

    silent: nodes that are not asked, as they did not answer questions before; new ones are added.
    """
    if not questions:
        return []
    if not is_cluster(client):
        return _pipelined(client, [words for _, words in questions], closing)
    return _ask_cluster(client, questions, closing, {} if silent is None else silent)


def run_each(
    client: RedisClient,
    calls: Sequence[ScriptCall],
    closing: Closing | None = None,
    silent: Silent | None = None,
) -> list[Any]:
    """The answers of scripts to each call, as ask_each(). Where a server does not know one, it gets it."""
    silent = {} if silent is None else silent
    answers = ask_each(client, [_evalsha(call) for call in calls], closing, silent)
    unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        found = _run_unknown(client, [calls[at] for at in unknown], closing, silent)
        for at, answer in zip(unknown, found, strict=True):
            answers[at] = answer
    return answers


def _answered(answers: list[Any]) -> list[Any]:
    if answers and all(isinstance(answer, AWAY) for answer in answers):
        raise answers[0]
    return answers


def beside(client: Any, key: str) -> dict[str, Any]:
    """Options of a command without a key, as INFO, that send it to the server that holds this key.

    Empty where there is one server. Raises one of REDIS_ERRORS.
    """
    return {"target_nodes": client.get_node_from_key(key)} if is_cluster(client) else {}


def server_of(client: Any, key: str) -> str:
    """Which server holds this key: host:port, or empty where there is one. Raises one of REDIS_ERRORS."""
    return "".join(node.name for node in beside(client, key).values())


def is_of_all(error: BaseException) -> bool:
    """Whether an error means that no node of a cluster answers."""
    return isinstance(error, RedisClusterException) and not isinstance(error, SlotNotCoveredError)


def probe(client: Any, key: str) -> None:
    """Try the server that holds this key, as probe_each(). Raises one of REDIS_ERRORS."""
    for error in probe_each(client, [key]).values():
        raise error


def probe_each(client: Any, keys: Iterable[str]) -> dict[str, Exception]:
    """Which keys are on nodes of a cluster that do not answer within PROBE_S, and why; each is tried once.

    A server that says nothing would cost the time-out of the client, in which no other is asked. Raises one
    of REDIS_ERRORS where no node answers at all.
    """
    if not hasattr(client, "probe"):  # one server, or a client that riskstream did not make
        return {}
    found: dict[str, Exception] = {}
    tried: dict[str, Exception | None] = {}
    uncovered: list[str] = []
    for key in keys:
        try:
            node = client.get_node_from_key(key)
        except SlotNotCoveredError as error:
            found[key] = error
            uncovered.append(key)
            continue
        if node.name not in tried:
            tried[node.name] = _probed(client, node)
        if (problem := tried[node.name]) is not None:
            found[key] = problem
    if uncovered:
        client.look_again()  # the next try may find them
    return found


def unreachable(client: Any, error: BaseException | None, others: Iterable[str]) -> list[str]:
    """Which keys are on the server that did not answer, as the error says, or is of a cluster that is down.

    As far as is known now: where a replica has followed the server since, they are on that one.
    """
    down = isinstance(error, ClusterDownError) and "cluster is down" in str(error)
    if not down and not isinstance(error, _NO_ANSWER):
        return []
    if not is_cluster(client):
        return list(others)
    place = getattr(error, "connection", None)  # redis-py's name for it; a node, too, has host and port
    return [] if place is None else _on_server(client, f"{place.host}:{place.port}", others)


def same_server(client: Any, key: str, others: Iterable[str]) -> list[str]:
    """Which other keys are on the server of this one, as far as is known."""
    with contextlib.suppress(*REDIS_ERRORS):
        return _on_server(client, server_of(client, key), others)
    return []


def _on_server(client: Any, server: str, keys: Iterable[str]) -> list[str]:
    found = []
    for key in keys:
        with contextlib.suppress(*REDIS_ERRORS):  # no node has its slot
            if server_of(client, key) == server:
                found.append(key)
    return found


def _evalsha(call: ScriptCall) -> Question:
    script, keys, args = call
    return keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args)


def _eval(call: ScriptCall) -> Question:
    script, keys, args = call
    return keys[0], ("EVAL", script.script, len(keys), *keys, *args)


def _run_unknown(
    client: Any, calls: Sequence[ScriptCall], closing: Closing | None, silent: Silent
) -> list[Any]:
    """As run_each(), with the scripts. On a cluster each call takes its own along, to whatever node."""
    if is_cluster(client):
        return ask_each(client, [_eval(call) for call in calls], closing, silent)
    texts = {script.sha: script.script for script, _, _ in calls}
    loads: list[Question] = [("", ("SCRIPT", "LOAD", text)) for text in texts.values()]
    answers = ask_each(client, [*loads, *map(_evalsha, calls)], closing)
    loaded, answers = answers[: len(loads)], answers[len(loads) :]
    refused = next((each for each in loaded if isinstance(each, ResponseError)), None)
    return [refused if refused and isinstance(each, NoScriptError) else each for each in answers]


def _pipelined(client: Any, commands: Sequence[Sequence[Any]], closing: Closing | None = None) -> list[Any]:
    if closing is not None:
        return closing.applied(_pipelined(client, [*commands, closing.words]))
    if len(commands) == 1:
        try:
            return [client.execute_command(*commands[0])]
        except ResponseError as error:
            return [error]
    pipeline = client.pipeline(transaction=False)
    for words in commands:
        pipeline.execute_command(*words)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    return answers


def _ask_node(
    client: Any, node: Any, commands: Sequence[Sequence[Any]], closing: Closing | None
) -> list[Any]:
    """The error tells which node it was: the next look may find another one in its place."""
    began = monotonic()
    try:
        return _pipelined(client.get_redis_connection(node), commands, closing)
    except REDIS_ERRORS as error:
        _mark(error, node, began)
        raise


def _probed(client: Any, node: Any) -> Exception | None:
    began = monotonic()
    try:
        client.probe(node)
    except REDIS_ERRORS as error:
        if is_of_all(error):
            raise
        _mark(error, node, began)
        return error
    return None


def _mark(error: Any, node: Any, began: float) -> None:
    """Write into an error which node it is of, in the attribute that redis-py has for it, and how long that
    was waited for."""
    error.connection, error.waited_s = node, monotonic() - began


def _follow(client: Any, moved: MovedError) -> None:
    try:
        client.nodes_manager.move_slot(moved)
    except LookupError:  # a slot that no node had, as far as was known
        _look_again(client)


def _look_again(client: Any, name: str | None = None) -> None:
    """Ask which node has which slots; name: of one that did not answer. May raise one of REDIS_ERRORS."""
    if hasattr(client, "look_again"):
        client.look_again(name)
    else:  # a client that riskstream did not make
        client.nodes_manager.initialize()


class _Asked:
    """Questions on their way to the nodes of a cluster; some have to be asked elsewhere again."""

    def __init__(
        self, client: Any, questions: Sequence[Question], closing: Closing | None, silent: Silent
    ) -> None:
        self._client = client
        self._questions = questions
        self._closing = closing
        self._asking: dict[int, Any] = {}  # question -> the node that ASK names
        self.answers: list[Any] = [None] * len(questions)
        self._silent = silent
        self.failed: str | None = None
        """A node that did not answer when it was asked."""

    def ask(self, numbers: Iterable[int]) -> list[int]:
        """Ask these questions, each node once. Returns those that have to be asked again."""
        of_node: dict[Any, list[int]] = defaultdict(list)
        for at in numbers:
            node = self._asking.get(at)
            try:
                of_node[node or self._client.get_node_from_key(self._questions[at][0])].append(at)
            except SlotNotCoveredError as error:
                self.answers[at] = error
        for node, asked in of_node.items():
            for at, answer in zip(asked, self._ask_node(node, asked), strict=True):
                self.answers[at] = answer
        return [at for at in numbers if isinstance(self.answers[at], _ELSEWHERE)]

    def follow(self, numbers: Iterable[int]) -> None:
        """Find out where to ask these."""
        moves = False
        for at in numbers:
            answer = self.answers[at]
            if isinstance(answer, TryAgainError):  # of the keys some are here and some there
                moves = True
                continue
            self._asking.pop(at, None)
            if isinstance(answer, MovedError):
                _follow(self._client, answer)
            elif (node := self._client.get_node(answer.host, answer.port)) is not None:
                self._asking[at] = node
            else:
                moves = True  # to a node that is not known yet
        if moves:
            sleep(_MOVING_S)

    def is_doubtful(self) -> bool:
        """Whether which node has which slots may not be what is known."""
        return any(isinstance(each, (*AWAY, *_ELSEWHERE)) for each in self.answers)

    def _ask_node(self, node: Any, asked: Sequence[int]) -> list[Any]:
        if node.name not in self._silent:
            commands = list(self._commands(asked))
            try:
                answers = _ask_node(self._client, node, [words for _, words in commands], self._closing)
            except REDIS_ERRORS as error:
                self._silent[node.name] = error
                self.failed = self.failed or node.name
            else:
                return [answer for (at, _), answer in zip(commands, answers, strict=True) if at is not None]
        return [self._silent[node.name]] * len(asked)

    def _commands(self, asked: Iterable[int]) -> Iterator[tuple[int | None, Sequence[Any]]]:
        for at in asked:
            if at in self._asking:
                yield None, ("ASKING",)
            yield at, self._questions[at][1]


def _ask_cluster(
    client: Any, questions: Sequence[Question], closing: Closing | None, silent: Silent
) -> list[Any]:
    """Each node in a pipeline of its own.

    redis-py's for all of them repeats each command by itself where a node is away, and waits each time.
    """
    asked = _Asked(client, questions, closing, silent)
    left = asked.ask(range(len(questions)))
    for _ in range(_REDIRECTIONS):
        if not left:
            break
        asked.follow(left)
        left = asked.ask(left)
    if asked.is_doubtful():
        _look_again(client, asked.failed)
    return asked.answers
