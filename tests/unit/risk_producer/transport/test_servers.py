"""Questions to nodes of a cluster that fail, move and are down: each is asked, and waited for, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from redis.cluster import RedisCluster
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

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.errors import StreamUnavailable
from risk_producer.transport import servers
from risk_producer.transport.requests import TraderStream
from risk_producer.transport.servers import (
    Closing,
    Silent,
    ask,
    ask_each,
    probe_each,
    run_each,
    same_server,
    unreachable,
)

KEYS = [f"k{number}" for number in range(6)]
Answer = Callable[[Sequence[Any]], Any]


class Node:
    """Answers what `answer` says: an exception of a server is raised, and others are answers."""

    def __init__(self, port: int) -> None:
        self.host, self.port, self.name = "h", port, f"h:{port}"
        self.answer: Answer = lambda words: (self.port, words[-1])
        self.error: Exception | None = None
        self.asked: list[list[Sequence[Any]]] = []

    def execute_command(self, *words: Any) -> Any:
        [answer] = self.run([words])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self)

    def run(self, commands: list[Sequence[Any]]) -> list[Any]:
        self.asked.append(commands)
        if self.error is not None:
            raise self.error
        return ["OK" if words == ("ASKING",) else self.answer(words) for words in commands]


class Pipeline:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._commands: list[Sequence[Any]] = []

    def execute_command(self, *words: Any) -> None:
        self._commands.append(words)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return self._node.run(self._commands)


class Cluster(RedisCluster):
    """Three nodes that have two keys each. look_again() finds what a test sets, by default the same."""

    def __init__(self) -> None:
        self.nodes = [Node(port) for port in (1, 2, 3)]
        self.node_of: dict[str, Node | None] = {key: self.nodes[at // 2] for at, key in enumerate(KEYS)}
        self.found: dict[str, Node] = {}
        self.looks: list[str | None] = []
        self.probed: list[str] = []
        self.nodes_manager: Any = self

    def get_node_from_key(self, key: str, replica: bool = False) -> Any:
        node = self.node_of[key]
        if node is None:
            raise SlotNotCoveredError("not covered")
        return node

    def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
        return next((node for node in self.nodes if (node.host, node.port) == (host, port)), None)

    def get_redis_connection(self, node: Any) -> Any:
        return node

    def move_slot(self, moved: MovedError) -> None:
        self.node_of[f"k{moved.slot_id}"] = self.get_node(moved.host, moved.port)

    def look_again(self, name: str | None = None) -> None:
        self.looks.append(name)
        self.node_of |= self.found

    def probe(self, node: Node) -> None:
        self.probed.append(node.name)
        if node.error is not None:
            raise node.error

    def close(self) -> None:
        pass

    def __del__(self) -> None:
        pass


@pytest.fixture
def cluster() -> Any:
    return Cluster()


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept; nothing sleeps."""
    slept: list[float] = []
    monkeypatch.setattr(servers, "sleep", slept.append)
    return slept


def questions(keys: Sequence[str] = KEYS) -> list[tuple[str, tuple[str, str]]]:
    return [(key, ("GET", key)) for key in keys]


def test_each_node_is_asked_once_and_answers_are_in_order(cluster: Any) -> None:
    assert ask(cluster, questions(KEYS[::-1])) == [(1 + int(key[1:]) // 2, key) for key in KEYS[::-1]]
    assert [len(node.asked) for node in cluster.nodes] == [1, 1, 1]
    assert cluster.looks == []


def test_what_a_node_answers_with_an_error_is_the_answer_of_that_question_alone(cluster: Any) -> None:
    wrong = ResponseError("WRONGTYPE")
    cluster.nodes[0].answer = lambda words: wrong if words[-1] == "k0" else b"x"
    assert ask(cluster, questions(["k0"])) == [wrong]
    assert ask(cluster, questions(["k0", "k1"])) == [wrong, b"x"]
    assert cluster.looks == []


@pytest.mark.parametrize("error", [RedisTimeoutError("says nothing"), RedisConnectionError("refused")])
def test_a_node_that_does_not_answer_is_waited_for_once_and_the_others_are_asked(
    cluster: Any, error: Exception
) -> None:
    cluster.nodes[0].error = error
    answers = ask(cluster, questions())
    assert answers[:2] == [error, error]
    assert [answer[0] for answer in answers[2:]] == [2, 2, 3, 3]
    assert len(cluster.nodes[0].asked) == 1
    assert cluster.looks == ["h:1"]
    for node in cluster.nodes:
        node.error = error
    with pytest.raises(type(error)):
        ask(cluster, questions())
    assert ask_each(cluster, questions()) == [error] * 6
    assert ask_each(cluster, []) == []


def test_a_failure_is_of_the_node_that_was_asked_not_of_the_one_that_follows_it(cluster: Any) -> None:
    """A healthy node has the slots by now: its other keys are reachable, and so are those of the one that
    failed."""
    cluster.nodes[0].error = RedisConnectionError("refused")
    cluster.found = {"k0": cluster.nodes[2], "k1": cluster.nodes[2]}
    [answer] = ask_each(cluster, questions(["k0"]))
    assert cluster.get_node_from_key("k0") is cluster.nodes[2]
    assert unreachable(cluster, answer, KEYS) == []
    assert same_server(cluster, "k0", KEYS) == ["k0", "k1", "k4", "k5"]


def test_while_no_other_node_follows_all_of_its_keys_are_unreachable(cluster: Any) -> None:
    cluster.nodes[0].error = RedisTimeoutError("says nothing")
    [answer] = ask_each(cluster, questions(["k0"]))
    assert unreachable(cluster, answer, KEYS) == ["k0", "k1"]
    cluster.node_of["k3"] = None
    assert unreachable(cluster, answer, KEYS) == ["k0", "k1"]
    problems = probe_each(cluster, KEYS)
    assert set(problems) == {"k0", "k1", "k3"}
    assert unreachable(cluster, problems["k0"], KEYS) == ["k0", "k1"]


def test_what_says_nothing_of_a_server_concerns_no_other_key(cluster: Any) -> None:
    for error in (None, ResponseError("WRONGTYPE"), ClusterDownError("Hash slot not served"), OSError()):
        assert unreachable(cluster, error, KEYS) == []
    assert unreachable(cluster, RedisConnectionError("whose?"), KEYS) == []


def test_a_cluster_that_is_down_answers_at_once(cluster: Any, naps: list[float]) -> None:
    """redis-py sleeps for 0.25 s before each command and again before its second try."""
    down = ClusterDownError("The cluster is down")
    for node in cluster.nodes:
        node.answer = lambda _: down
    with pytest.raises(ClusterDownError):
        ask(cluster, questions())
    assert naps == []
    assert [len(node.asked) for node in cluster.nodes] == [1, 1, 1]
    assert cluster.looks == [None], "another node may know better who has the slots"


def test_many_that_have_moved_are_asked_again_in_one_round(cluster: Any, naps: list[float]) -> None:
    last = cluster.nodes[2]
    for node in cluster.nodes[:2]:
        node.answer = lambda words: MovedError(f"{words[-1][1:]} h:3")
    assert ask(cluster, questions()) == [(3, key) for key in KEYS]
    assert [len(asked) for asked in last.asked] == [2, 4]
    assert naps == []
    assert ask(cluster, questions()) == [(3, key) for key in KEYS], "and from then on there"
    assert [len(node.asked) for node in cluster.nodes] == [1, 1, 3]


def test_many_that_have_moved_to_a_node_that_says_nothing_wait_for_it_once(cluster: Any) -> None:
    cluster.nodes[0].answer = lambda words: MovedError(f"{words[-1][1:]} h:2")
    cluster.nodes[1].error = error = RedisTimeoutError("says nothing")
    assert ask_each(cluster, questions(KEYS[:4])) == [error] * 4
    assert len(cluster.nodes[1].asked) == 1
    assert ask_each(cluster, questions(KEYS[:2])) == [error] * 2


def test_ask_is_followed_for_this_question_alone(cluster: Any) -> None:
    cluster.nodes[0].answer = lambda words: AskError("0 h:2") if words[-1] == "k0" else (1, words[-1])
    assert ask(cluster, questions(KEYS[:2])) == [(2, "k0"), (1, "k1")]
    assert cluster.nodes[1].asked == [[("ASKING",), ("GET", "k0")]]
    assert cluster.get_node_from_key("k0") is cluster.nodes[0]
    unknown = AskError("0 h:9")
    cluster.nodes[0].answer = lambda words: unknown
    assert ask_each(cluster, questions(["k0"])) == [unknown]


def test_a_slot_that_goes_on_moving_is_waited_for_with_a_bound(cluster: Any, naps: list[float]) -> None:
    again = TryAgainError("Multiple keys request during rehashing of slot")
    cluster.nodes[0].answer = lambda words: again
    answers = ask_each(cluster, questions())
    assert answers[:2] == [again, again]
    assert sum(naps) < 0.5
    left = [again, again]
    cluster.nodes[0].answer = lambda words: left.pop() if left else (1, words[-1])
    assert ask_each(cluster, questions(["k0"])) == [(1, "k0")]


def test_a_circle_of_redirections_ends(cluster: Any) -> None:
    cluster.nodes[0].answer = lambda words: MovedError("0 h:2")
    cluster.nodes[1].answer = lambda words: MovedError("0 h:1")
    [answer] = ask_each(cluster, questions(["k0"]))
    assert isinstance(answer, MovedError)


def test_a_slot_that_no_node_has_is_looked_for(cluster: Any) -> None:
    cluster.node_of["k0"] = None
    cluster.found = {"k0": cluster.nodes[1]}
    [error, other] = ask_each(cluster, questions(KEYS[:2]))
    assert isinstance(error, SlotNotCoveredError)
    assert other == (1, "k1")
    assert ask_each(cluster, questions(["k0"])) == [(2, "k0")]
    cluster.node_of["k0"] = None
    assert set(probe_each(cluster, ["k0"])) == {"k0"}
    assert probe_each(cluster, ["k0"]) == {}


def test_where_no_node_answers_at_all_that_is_raised_at_once(cluster: Any) -> None:
    tries = []

    def nobody(key: str, replica: bool = False) -> Any:
        tries.append(key)
        raise RedisClusterException("Redis Cluster cannot be connected")

    cluster.get_node_from_key = nobody
    for question in (ask, ask_each):
        with pytest.raises(RedisClusterException):
            question(cluster, questions())
    assert len(tries) == 2, "each one costs a time-out for each node"


def test_each_server_is_probed_once(cluster: Any) -> None:
    cluster.nodes[1].error = error = RedisTimeoutError("says nothing")
    assert probe_each(cluster, KEYS) == {"k2": error, "k3": error}
    assert cluster.probed == ["h:1", "h:2", "h:3"]


def test_a_script_is_sent_along_where_it_is_not_known(cluster: Any) -> None:
    class Script:
        sha, script = "sha", "text"

    def answer(words: Sequence[Any]) -> Any:
        return NoScriptError("No matching script") if words[0] == "EVALSHA" else tuple(words)

    cluster.nodes[1].answer = answer
    calls = [(Script, [key, "more"], ["a"]) for key in ("k0", "k2", "k4", "k3")]
    answers = run_each(cluster, calls)
    assert answers[0] == (1, "a") and answers[2] == (3, "a")
    assert answers[1] == ("EVAL", "text", 2, "k2", "more", "a")
    assert answers[3] == ("EVAL", "text", 2, "k3", "more", "a")
    assert [len(node.asked) for node in cluster.nodes] == [1, 2, 1]


def test_each_node_is_asked_the_closing_behind_its_questions(cluster: Any) -> None:
    """And where it is not met, nothing that the node was asked is; also what is asked there after a MOVED."""
    problem, wrong = ValueError("too few"), ResponseError("WRONGTYPE")
    closing = Closing(("WAIT", 1), lambda answer: problem if answer < 1 else None)
    met = {1: 1, 2: 0, 3: 1}

    def answers(node: Node) -> Answer:
        return lambda words: met[node.port] if words[0] == "WAIT" else words[-1]

    for node in cluster.nodes:
        node.answer = answers(node)
    second = cluster.nodes[1].answer
    cluster.nodes[1].answer = lambda words: wrong if words[-1] == "k2" else second(words)
    assert ask_each(cluster, questions(), closing) == ["k0", "k1", wrong, problem, "k4", "k5"]
    assert all([asked[-1] for asked in node.asked] == [("WAIT", 1)] for node in cluster.nodes)
    first = cluster.nodes[0].answer
    cluster.nodes[0].answer = lambda words: MovedError("0 h:2") if words[-1] == "k0" else first(words)
    assert ask_each(cluster, questions(["k0", "k1"]), closing) == [problem, "k1"]
    assert cluster.nodes[1].asked[-1] == [("GET", "k0"), ("WAIT", 1)]


def test_a_node_that_said_nothing_is_not_asked_what_comes_next_of_the_same_question(cluster: Any) -> None:
    """As where claims are made known in other partitions, behind the claims."""
    cluster.nodes[0].error = error = RedisTimeoutError("says nothing")
    silent: Silent = {}
    for _ in range(2):
        answers = ask_each(cluster, questions(), silent=silent)
        assert answers[:2] == [error, error]
        assert answers[2:] == [(2, "k2"), (2, "k3"), (3, "k4"), (3, "k5")]
    assert [len(node.asked) for node in cluster.nodes] == [1, 2, 2]
    assert cast("Any", error).waited_s >= 0


def test_load_and_the_number_of_partitions_wait_once_for_a_node_that_says_nothing(cluster: Any) -> None:
    """redis-py's pipeline for a cluster repeats each command by itself."""
    node = cluster.nodes[0]
    node.error = RedisTimeoutError("says nothing")
    cluster.get_node_from_key = lambda key: node
    cluster.register_script = lambda text: text
    stream = TraderStream(cluster)
    for ask_stream in (
        lambda: stream.latest(Keys(0), "t"),
        lambda: stream.agree(Partitioning(1, 4), Keys(0)),
    ):
        node.asked.clear()
        with pytest.raises(StreamUnavailable, match="says nothing"):
            ask_stream()
        assert len(node.asked) == 1
