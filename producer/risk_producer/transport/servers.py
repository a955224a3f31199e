"""Which server holds a key, and questions about many keys at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from time import sleep
from typing import Any, Final, TypeAlias

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisClusterException,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, is_cluster

Question: TypeAlias = tuple[str, Sequence[Any]]
"""(a key, the command and its arguments): the server that holds the key is asked."""

_NO_ANSWER: Final = (RedisConnectionError, RedisTimeoutError)
AWAY: Final = (*_NO_ANSWER, RedisClusterException, ClusterDownError)
"""Errors of a server or of the cluster. Others are of a key, or of what was asked."""
_ELSEWHERE: Final = (AskError, TryAgainError)
"""MOVED (an AskError), ASK, or the slot moves right now."""
_REDIRECTIONS: Final = 16
_MOVING_S: Final = 0.05
"""Between two tries while a slot moves."""


def ask(client: RedisClient, questions: Sequence[Question]) -> list[Any]:
    """The answers, in order; an error of the server is an answer too.

    One round trip for each server. Where a node of a cluster does not answer, that is the answer to all
    that it was asked. Raises one of REDIS_ERRORS where no server answers.
    """
    if not questions:
        return []
    if not is_cluster(client):
        return _pipelined(client, [words for _, words in questions])
    return _ask_cluster(client, questions)


def beside(client: Any, key: str) -> dict[str, Any]:
    """Options of a command without a key, as INFO, that send it to the server that holds this key.

    Empty where there is one server. Raises one of REDIS_ERRORS.
    """
    return {"target_nodes": client.get_node_from_key(key)} if is_cluster(client) else {}


def ask_server(client: Any, key: str, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The answers to commands that go over one connection, in order, to the server that holds this key.

    An error of the server is an answer too. On a cluster a slot that has moved is followed. Raises one of
    REDIS_ERRORS where the server does not answer.
    """
    if not is_cluster(client):
        return _pipelined(client, commands)
    try:
        node = client.get_node_from_key(key)
    except REDIS_ERRORS:  # no node has its slot, as far as is known
        client.look_again()
        raise
    asking: list[Sequence[Any]] = []
    for _ in range(_REDIRECTIONS):
        try:
            answers = _pipelined(client.get_redis_connection(node), [*asking, *commands])[len(asking) :]
        except REDIS_ERRORS:
            client.look_again(node.name)
            raise
        elsewhere = next((each for each in answers if isinstance(each, _ELSEWHERE)), None)
        if elsewhere is None:
            break
        asking = []
        if isinstance(elsewhere, MovedError):
            client.nodes_manager.move_slot(elsewhere)
            node = client.get_node_from_key(key)
        elif isinstance(elsewhere, AskError):
            node = client.get_node(elsewhere.host, elsewhere.port) or node
            asking = [("ASKING",)]
        else:
            sleep(_MOVING_S)  # of the keys some are here and some there
    return answers


def server_of(client: Any, key: str) -> str:
    """Which server holds this key: host:port, or empty where there is one. Raises one of REDIS_ERRORS."""
    return "".join(node.name for node in beside(client, key).values())


def is_of_all(error: BaseException) -> bool:
    """Whether an error means that no node of a cluster answers."""
    return isinstance(error, RedisClusterException) and not isinstance(error, SlotNotCoveredError)


def probe(client: Any, key: str) -> None:
    """Try the server that holds this key, for PROBE_S, on a cluster. Raises one of REDIS_ERRORS.

    A server that says nothing would cost the time-out of the client, in which no other is asked.
    """
    if is_cluster(client):
        client.probe(client.get_node_from_key(key))


def unreachable(client: Any, key: str, error: BaseException | None, others: Iterable[str]) -> list[str]:
    """Which other keys are on the server that did not answer about this one, as the error says."""
    return same_server(client, key, others) if isinstance(error, _NO_ANSWER) else []


def same_server(client: Any, key: str, others: Iterable[str]) -> list[str]:
    """Which other keys are on the server of this one, as far as is known."""
    try:
        server = server_of(client, key)
        return [other for other in others if server_of(client, other) == server]
    except REDIS_ERRORS:
        return []


def _pipelined(client: Any, commands: Iterable[Sequence[Any]]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for words in commands:
        pipeline.execute_command(*words)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    return answers


def _ask_cluster(client: Any, questions: Sequence[Question]) -> list[Any]:
    """Each node in a pipeline of its own.

    redis-py's for all of them repeats each command by itself where a node is away, and waits each time.
    """
    answers: list[Any] = [None] * len(questions)
    of_node: dict[Any, list[int]] = defaultdict(list)
    unknown = False
    for at, (key, _) in enumerate(questions):
        try:
            of_node[client.get_node_from_key(key)].append(at)
        except REDIS_ERRORS as error:  # no node has its slot, as far as is known
            answers[at] = error
            unknown = True
    if unknown:
        client.look_again()
    for node, asked in of_node.items():
        try:
            found = _pipelined(client.get_redis_connection(node), [questions[at][1] for at in asked])
        except REDIS_ERRORS as error:
            found = [error] * len(asked)
            client.look_again(node.name)
        for at, answer in zip(asked, found, strict=True):
            answers[at] = _again(client, *questions[at]) if isinstance(answer, _ELSEWHERE) else answer
    if all(isinstance(answer, AWAY) for answer in answers):
        raise answers[0]
    return answers


def _again(client: Any, key: str, words: Sequence[Any]) -> Any:
    """By the client itself, which follows where the key went."""
    try:
        return client.execute_command(*words, **({} if key in words else beside(client, key)))
    except REDIS_ERRORS as error:
        return error
