"""The peer that is written with grpcio: a server and a client of the service in ../proto."""

import argparse
import json
import os
import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

import peer_pb2
import peer_pb2_grpc

MAX_MESSAGE = 8 << 20  # the largest message that is taken, in bytes
PATIENCE = 60  # bounds what has to succeed, in seconds
KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Without this, C-core sends no more than two PINGs without data.
    ("grpc.http2.max_pings_without_data", 0),
]
LIMITS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", 2 * MAX_MESSAGE),
]
CODES = {code.value[0]: code for code in grpc.StatusCode}


# --- server ---------------------------------------------------------------


class Peer(peer_pb2_grpc.PeerServicer):
    def __init__(self):
        self.lock = threading.Lock()
        self.ends = {}

    def end(self, hold):
        with self.lock:
            return self.ends.setdefault(hold, threading.Event())

    def hold(self, request, context):
        """Notes the RPC's end, and gives an event of it."""
        ended = self.end(request.hold)
        if not context.add_callback(ended.set):
            ended.set()
        return ended

    def Unary(self, request, context):
        # The headers say it, so it has to be known before they are sent.
        if request.gzip:
            context.set_compression(grpc.Compression.Gzip)
        echo_metadata(context)
        fail(request, context)
        if request.hold:
            self.hold(request, context).wait(PATIENCE)
        return answer(request, context)

    def Collect(self, requests, context):
        echo_metadata(context)
        response = peer_pb2.Response()
        for request in requests:
            fail(request, context)
            response.requests += 1
            response.bytes += len(request.payload)
        return response

    def Spread(self, request, context):
        echo_metadata(context)
        for _ in range(request.answers):
            yield answer(request, context)
        fail(request, context)

    def Chat(self, requests, context):
        echo_metadata(context)
        for request in requests:
            fail(request, context)
            # Before the answer: where the RPC is cancelled with it, nothing after it runs.
            ended = self.hold(request, context) if request.hold else None
            yield answer(request, context)
            if ended:
                ended.wait(PATIENCE)
                return

    def Ended(self, request, context):
        return peer_pb2.EndedResponse(cancelled=self.end(request.hold).wait(10))


def echo_metadata(context):
    got = context.invocation_metadata()
    context.send_initial_metadata([item for item in got if item.key in ("x-echo", "x-echo-bin")])
    context.set_trailing_metadata(
        [(item.key.replace("echo", "trail"), item.value) for item in got if item.key in ("x-echo", "x-echo-bin")]
    )


def fail(request, context):
    if not request.fail_code:
        return
    if request.fail_details:
        trailers = list(context.trailing_metadata() or [])
        context.set_trailing_metadata(trailers + [("grpc-status-details-bin", request.fail_details)])
    context.abort(CODES[request.fail_code], request.fail_message)


def answer(request, context):
    left = context.time_remaining()
    return peer_pb2.Response(
        payload=bytes(request.answer_size) or request.payload,
        requests=1,
        bytes=len(request.payload),
        # Without a deadline C-core says something very far away.
        remaining_ms=int(left * 1000) if left is not None and left < 1e6 else 0,
    )


def serve():
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=64),
        options=LIMITS
        + KEEPALIVE
        + [("grpc.http2.min_ping_interval_without_data_ms", 5_000)],
    )
    peer_pb2_grpc.add_PeerServicer_to_server(Peer(), server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    names = [peer_pb2.DESCRIPTOR.services_by_name["Peer"].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening on 127.0.0.1:{port} (grpcio {grpc.__version__})", flush=True)
    server.wait_for_termination()


# --- client ---------------------------------------------------------------

MESSAGE = "because of 100 % naïveté: 世界"
TEXTS = ["one", "two words"]
BINARIES = [b"\x00\x01\xfe\xff", b"\x80,;= "]
ECHO = [("x-echo", text) for text in TEXTS] + [("x-echo-bin", value) for value in BINARIES]


def same(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def values(metadata, key):
    return [item.value for item in metadata if item.key == key]


def texts(metadata, key):
    """The values; grpc-js joins repeated ones with a comma, as HTTP allows."""
    return [text for value in values(metadata, key) for text in value.split(", ")]


def failed(call):
    """Runs what has to fail, and returns the error."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the RPC did not fail")


def code(error):
    return error.code().value[0]


class Client:
    def __init__(self, options):
        self.options = options
        self.details = bytes.fromhex(options.details)
        self.unique = f"python-{os.getpid()}-{time.time_ns()}"
        self.channel = self.dial(options.authority)
        self.peer = peer_pb2_grpc.PeerStub(self.channel)

    def dial(self, authority):
        options = LIMITS + KEEPALIVE + [("grpc.use_local_subchannel_pool", 1)]
        if authority:
            options = options + [("grpc.default_authority", authority)]
        return grpc.insecure_channel(self.options.target, options=options)

    def run(self):
        for case in self.options.cases.split(","):
            said = {"case": case, "error": "", "code": 0}
            try:
                said["code"] = getattr(self, "case_" + case)() or 0
            except Exception as error:  # whatever it is, it belongs to this case
                said["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps(said), flush=True)

    def case_unary(self):
        same("the answer", self.peer.Unary(peer_pb2.Request(payload=b"hello"), timeout=PATIENCE).payload, b"hello")

    def case_client_streaming(self):
        response = self.peer.Collect((peer_pb2.Request(payload=bytes(50_000)) for _ in range(100)), timeout=PATIENCE)
        same("requests", response.requests, 100)
        same("bytes", response.bytes, 5_000_000)

    def case_server_streaming(self):
        answers = list(self.peer.Spread(peer_pb2.Request(answers=100, answer_size=50_000), timeout=PATIENCE))
        same("answers", len(answers), 100)
        same("bytes", sum(len(answer.payload) for answer in answers), 5_000_000)

    def case_bidi_streaming(self):
        # Each request waits for the answer before it, so nothing may be held back.
        answered = threading.Semaphore(1)

        def requests():
            for i in range(20):
                if not answered.acquire(timeout=PATIENCE):
                    return
                yield peer_pb2.Request(payload=b"message %d" % i)

        count = 0
        for answer in self.peer.Chat(requests(), timeout=PATIENCE):
            same("answer", answer.payload, b"message %d" % count)
            count += 1
            answered.release()
        same("answers", count, 20)

    def case_metadata(self):
        _, call = self.peer.Unary.with_call(peer_pb2.Request(), metadata=ECHO, timeout=PATIENCE)
        stream = self.peer.Spread(peer_pb2.Request(answers=1), metadata=ECHO, timeout=PATIENCE)
        same("answers", len(list(stream)), 1)
        for kind, rpc in ("unary", call), ("streaming", stream):
            same(f"{kind} x-echo", texts(rpc.initial_metadata(), "x-echo"), TEXTS)
            same(f"{kind} x-echo-bin", values(rpc.initial_metadata(), "x-echo-bin"), BINARIES)
            same(f"{kind} x-trail", texts(rpc.trailing_metadata(), "x-trail"), TEXTS)
            same(f"{kind} x-trail-bin", values(rpc.trailing_metadata(), "x-trail-bin"), BINARIES)

    def same_status(self, error):
        same("message", error.details(), MESSAGE)
        same("details", values(error.trailing_metadata(), "grpc-status-details-bin"), [self.details])
        same("details as they are read", rpc_status.from_call(error).SerializeToString(), self.details)

    def case_status(self):
        failing = peer_pb2.Request(answers=1, fail_code=9, fail_message=MESSAGE, fail_details=self.details)
        error = failed(lambda: self.peer.Unary(failing, metadata=ECHO, timeout=PATIENCE))
        self.same_status(error)
        same("x-trail-bin", values(error.trailing_metadata(), "x-trail-bin"), BINARIES)

        stream = self.peer.Spread(failing, timeout=PATIENCE)
        next(stream)
        error = failed(lambda: next(stream))
        self.same_status(error)
        return code(error)

    def case_early_status(self):
        # The server ends the RPC while the client is still sending.
        request = peer_pb2.Request(fail_code=10, fail_message=MESSAGE, payload=bytes(50_000))
        error = failed(lambda: self.peer.Collect((request for _ in range(1000)), timeout=PATIENCE))
        same("message", error.details(), MESSAGE)
        return code(error)

    def ended(self, hold):
        response = self.peer.Ended(peer_pb2.EndedRequest(hold=hold), timeout=PATIENCE)
        same("the server saw the RPC cancelled", response.cancelled, True)

    def case_deadline_expires(self):
        hold = self.unique + "-deadline"
        begin = time.monotonic()
        error = failed(lambda: self.peer.Unary(peer_pb2.Request(hold=hold), timeout=0.3))
        took = time.monotonic() - begin
        if not 0.25 < took < 5:
            raise AssertionError(f"a deadline of 0.3 s expired after {took} s")
        self.ended(hold)
        return code(error)

    def case_deadline_arrives(self):
        left = self.peer.Unary(peer_pb2.Request(), timeout=30).remaining_ms
        if not 20_000 < left <= 30_100:
            raise AssertionError(f"of 30 s there were {left} ms left")

    def case_cancel(self):
        hold = self.unique + "-cancel"
        done = threading.Event()

        def requests():
            yield peer_pb2.Request(hold=hold)
            done.wait(PATIENCE)

        stream = self.peer.Chat(requests(), timeout=PATIENCE)
        next(stream)
        stream.cancel()
        error = failed(lambda: next(stream))
        done.set()
        self.ended(hold)
        return code(error)

    def case_large(self):
        payload = b"abcdefghijklmnop" * (4 << 16)
        response = self.peer.Unary(peer_pb2.Request(payload=payload), timeout=PATIENCE)
        if response.payload != payload:
            raise AssertionError(f"{len(response.payload)} other bytes came back")

    def case_too_large_request(self):
        return code(failed(lambda: self.peer.Unary(peer_pb2.Request(payload=bytes(9 << 20)), timeout=PATIENCE)))

    def case_too_large_answer(self):
        return code(failed(lambda: self.peer.Unary(peer_pb2.Request(answer_size=9 << 20), timeout=PATIENCE)))

    def case_gzip(self):
        response = self.peer.Unary(
            peer_pb2.Request(payload=bytes(1 << 20), answer_size=1 << 20, gzip=True),
            compression=grpc.Compression.Gzip,
            timeout=PATIENCE,
        )
        same("bytes", response.bytes, 1 << 20)
        same("the answer's bytes", len(response.payload), 1 << 20)

    def case_health(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        same("Check", stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status, serving)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        same("Watch", next(watch).status, serving)
        watch.cancel()

    def case_reflection(self):
        # Without the authority, as a person asks who has a sidecar before him, and not one service.
        with self.dial("") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="pillion.languages.v1.Peer")
            response = next(stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE))
            if not response.file_descriptor_response.file_descriptor_proto:
                raise AssertionError(f"no descriptor came: {response}")

    def case_keepalive(self):
        self.case_unary()
        print("idle", flush=True)
        time.sleep(self.options.idle)
        print("awake", flush=True)
        self.case_unary()


def main():
    if sys.argv[1] == "server":
        serve()
        return

    parser = argparse.ArgumentParser()
    parser.add_argument("--target", help="where the server is, host:port")
    parser.add_argument("--authority", default="", help="the authority to send, where it is not the target")
    parser.add_argument("--details", default="", help="a google.rpc.Status, in hexadecimal")
    parser.add_argument("--cases", help="what to try, separated by commas")
    parser.add_argument("--idle", type=int, default=0, help="how long keepalive is silent, in seconds")
    Client(parser.parse_args(sys.argv[2:])).run()


if __name__ == "__main__":
    main()
