package pillion.languages;

import com.google.protobuf.ByteString;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.reflection.v1.ServerReflectionGrpc;
import io.grpc.reflection.v1.ServerReflectionRequest;
import io.grpc.reflection.v1.ServerReflectionResponse;
import io.grpc.stub.BlockingClientCall;
import io.grpc.stub.MetadataUtils;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import pillion.languages.v1.EndedRequest;
import pillion.languages.v1.PeerGrpc;
import pillion.languages.v1.PeerGrpc.PeerBlockingV2Stub;
import pillion.languages.v1.Request;
import pillion.languages.v1.Response;

final class PeerClient implements AutoCloseable {
  private static final String MESSAGE = "because of 100 % naïveté: 世界";
  private static final List<String> TEXTS = List.of("one", "two words");
  private static final List<byte[]> BINARIES =
      List.of(
          new byte[] {0, 1, (byte) 0xfe, (byte) 0xff},
          "\u0080,;= ".getBytes(StandardCharsets.ISO_8859_1));

  private final String target;
  private final byte[] details;
  private final long idleSeconds;
  private final String unique;
  private final ManagedChannel channel;
  private final PeerBlockingV2Stub peer;

  /** What a case does; it returns the status of the RPC that was to fail, OK where none was. */
  private interface Case {
    Status.Code run() throws Exception;
  }

  private interface Rpc {
    Object run() throws Exception;
  }

  PeerClient(Map<String, String> options) {
    target = options.get("--target");
    details = HexFormat.of().parseHex(options.getOrDefault("--details", ""));
    idleSeconds = Long.parseLong(options.getOrDefault("--idle", "0"));
    unique = "java-" + ProcessHandle.current().pid() + "-" + System.nanoTime();
    channel = dial(options.getOrDefault("--authority", ""));
    peer = PeerGrpc.newBlockingV2Stub(channel);
  }

  private ManagedChannel dial(String authority) {
    NettyChannelBuilder builder =
        NettyChannelBuilder.forTarget("dns:///" + target, InsecureChannelCredentials.create())
            .maxInboundMessageSize(Main.MAX_MESSAGE)
            .keepAliveTime(Main.KEEPALIVE_SECONDS, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true);
    if (!authority.isEmpty()) {
      builder.overrideAuthority(authority);
    }
    return builder.build();
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }

  void run(String[] names) {
    Map<String, Case> cases =
        Map.ofEntries(
            Map.entry("unary", this::unary),
            Map.entry("client_streaming", this::clientStreaming),
            Map.entry("server_streaming", this::serverStreaming),
            Map.entry("bidi_streaming", this::bidiStreaming),
            Map.entry("metadata", this::metadata),
            Map.entry("status", this::status),
            Map.entry("early_status", this::earlyStatus),
            Map.entry("deadline_expires", this::deadlineExpires),
            Map.entry("deadline_arrives", this::deadlineArrives),
            Map.entry("cancel", this::cancel),
            Map.entry("large", this::large),
            Map.entry("too_large_request", this::tooLargeRequest),
            Map.entry("too_large_answer", this::tooLargeAnswer),
            Map.entry("gzip", this::gzip),
            Map.entry("health", this::health),
            Map.entry("reflection", this::reflection),
            Map.entry("keepalive", this::keepalive));
    for (String name : names) {
      String error = "";
      int code = 0;
      try {
        code = cases.get(name).run().value();
      } catch (Exception | AssertionError failure) {
        error = failure.toString().replaceAll("[\"\\\\\\p{Cntrl}]", "'");
      }
      System.out.printf("{\"case\": \"%s\", \"error\": \"%s\", \"code\": %d}%n", name, error, code);
    }
  }

  private static void same(String what, Object got, Object want) {
    if (!Objects.equals(got, want)) {
      throw new AssertionError(what + ": got " + got + ", want " + want);
    }
  }

  private static StatusException failed(Rpc rpc) throws Exception {
    try {
      rpc.run();
    } catch (StatusException failure) {
      return failure;
    }
    throw new AssertionError("the RPC did not fail");
  }

  private PeerBlockingV2Stub soon() {
    return peer.withDeadlineAfter(Main.PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  private static Request zeros(int size) {
    return Request.newBuilder().setPayload(ByteString.copyFrom(new byte[size])).build();
  }

  private Status.Code unary() throws Exception {
    ByteString hello = ByteString.copyFromUtf8("hello");
    same("the answer", soon().unary(Request.newBuilder().setPayload(hello).build()).getPayload(), hello);
    return Status.Code.OK;
  }

  private Status.Code clientStreaming() throws Exception {
    BlockingClientCall<Request, Response> call = soon().collect();
    for (int i = 0; i < 100; i++) {
      call.write(zeros(50_000));
    }
    call.halfClose();
    Response response = call.read();
    same("requests", response.getRequests(), 100);
    same("bytes", response.getBytes(), 5_000_000L);
    return Status.Code.OK;
  }

  private Status.Code serverStreaming() throws Exception {
    Request request = Request.newBuilder().setAnswers(100).setAnswerSize(50_000).build();
    BlockingClientCall<?, Response> call = soon().spread(request);
    int answers = 0;
    int bytes = 0;
    for (Response response = call.read(); response != null; response = call.read()) {
      answers++;
      bytes += response.getPayload().size();
    }
    same("answers", answers, 100);
    same("bytes", bytes, 5_000_000);
    return Status.Code.OK;
  }

  /** Each request waits for the answer before it, so nothing may be held back. */
  private Status.Code bidiStreaming() throws Exception {
    BlockingClientCall<Request, Response> call = soon().chat();
    for (int i = 0; i < 20; i++) {
      ByteString text = ByteString.copyFromUtf8("message " + i);
      call.write(Request.newBuilder().setPayload(text).build());
      same("answer", call.read().getPayload(), text);
    }
    call.halfClose();
    same("the stream's end", call.read(), null);
    return Status.Code.OK;
  }

  private static Metadata echo() {
    Metadata metadata = new Metadata();
    TEXTS.forEach(text -> metadata.put(EchoInterceptor.ECHO, text));
    BINARIES.forEach(value -> metadata.put(EchoInterceptor.ECHO_BIN, value));
    return metadata;
  }

  /** Of repeated values: grpc-js joins them with a comma, as HTTP allows. */
  private static void sameTexts(Metadata metadata, Metadata.Key<String> key) {
    List<String> got = new ArrayList<>();
    Objects.requireNonNullElse(metadata.getAll(key), List.<String>of())
        .forEach(value -> got.addAll(List.of(value.split(", "))));
    same(key.name(), got, TEXTS);
  }

  private static void sameBinaries(Metadata metadata, Metadata.Key<byte[]> key) {
    List<String> got = new ArrayList<>();
    Iterable<byte[]> values = metadata.getAll(key);
    if (values != null) {
      values.forEach(value -> got.add(HexFormat.of().formatHex(value)));
    }
    same(key.name(), got, BINARIES.stream().map(HexFormat.of()::formatHex).toList());
  }

  private Status.Code metadata() throws Exception {
    AtomicReference<Metadata> headers = new AtomicReference<>();
    AtomicReference<Metadata> trailers = new AtomicReference<>();
    PeerBlockingV2Stub stub =
        soon()
            .withInterceptors(
                MetadataUtils.newAttachHeadersInterceptor(echo()),
                MetadataUtils.newCaptureMetadataInterceptor(headers, trailers));

    stub.unary(Request.getDefaultInstance());
    sameMetadata(headers.get(), trailers.get());

    headers.set(null);
    trailers.set(null);
    BlockingClientCall<?, Response> call = stub.spread(Request.newBuilder().setAnswers(1).build());
    while (call.read() != null) {
      continue;
    }
    sameMetadata(headers.get(), trailers.get());
    return Status.Code.OK;
  }

  private static void sameMetadata(Metadata headers, Metadata trailers) {
    sameTexts(headers, EchoInterceptor.ECHO);
    sameBinaries(headers, EchoInterceptor.ECHO_BIN);
    sameTexts(trailers, EchoInterceptor.TRAIL);
    sameBinaries(trailers, EchoInterceptor.TRAIL_BIN);
  }

  private void sameStatus(StatusException failure) {
    same("message", failure.getStatus().getDescription(), MESSAGE);
    same(
        "details",
        StatusProto.fromThrowable(failure).toByteString(),
        ByteString.copyFrom(details));
  }

  private Status.Code status() throws Exception {
    Request failing =
        Request.newBuilder()
            .setAnswers(1)
            .setFailCode(9)
            .setFailMessage(MESSAGE)
            .setFailDetails(ByteString.copyFrom(details))
            .build();
    PeerBlockingV2Stub stub =
        soon().withInterceptors(MetadataUtils.newAttachHeadersInterceptor(echo()));
    StatusException failure = failed(() -> stub.unary(failing));
    sameStatus(failure);
    sameBinaries(failure.getTrailers(), EchoInterceptor.TRAIL_BIN);

    BlockingClientCall<?, Response> call = soon().spread(failing);
    Objects.requireNonNull(call.read(), "no answer came before the status");
    failure = failed(call::read);
    sameStatus(failure);
    return failure.getStatus().getCode();
  }

  /** The server ends the RPC while the client is still sending. */
  private Status.Code earlyStatus() throws Exception {
    Request request = zeros(50_000).toBuilder().setFailCode(10).setFailMessage(MESSAGE).build();
    BlockingClientCall<Request, Response> call = soon().collect();
    StatusException failure =
        failed(
            () -> {
              for (int i = 0; i < 1000 && call.write(request); i++) {
                continue;
              }
              return call.read();
            });
    same("message", failure.getStatus().getDescription(), MESSAGE);
    return failure.getStatus().getCode();
  }

  private void ended(String hold) throws Exception {
    boolean cancelled = soon().ended(EndedRequest.newBuilder().setHold(hold).build()).getCancelled();
    same("the server saw the RPC cancelled", cancelled, true);
  }

  private Status.Code deadlineExpires() throws Exception {
    String hold = unique + "-deadline";
    long begin = System.nanoTime();
    StatusException failure =
        failed(
            () ->
                peer.withDeadlineAfter(300, TimeUnit.MILLISECONDS)
                    .unary(Request.newBuilder().setHold(hold).build()));
    long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - begin);
    if (took < 250 || took > 5_000) {
      throw new AssertionError("a deadline of 300 ms expired after " + took + " ms");
    }
    ended(hold);
    return failure.getStatus().getCode();
  }

  private Status.Code deadlineArrives() throws Exception {
    int left =
        peer.withDeadlineAfter(30, TimeUnit.SECONDS)
            .unary(Request.getDefaultInstance())
            .getRemainingMs();
    if (left < 20_000 || left > 30_100) {
      throw new AssertionError("of 30 s there were " + left + " ms left");
    }
    return Status.Code.OK;
  }

  private Status.Code cancel() throws Exception {
    String hold = unique + "-cancel";
    BlockingClientCall<Request, Response> call = soon().chat();
    call.write(Request.newBuilder().setHold(hold).build());
    Objects.requireNonNull(call.read(), "no answer came");
    call.cancel("the test wants it so", null);
    StatusException failure = failed(call::read);
    ended(hold);
    return failure.getStatus().getCode();
  }

  private Status.Code large() throws Exception {
    ByteString payload = ByteString.copyFromUtf8("abcdefghijklmnop".repeat(4 << 16));
    Response response = soon().unary(Request.newBuilder().setPayload(payload).build());
    if (!response.getPayload().equals(payload)) {
      throw new AssertionError(response.getPayload().size() + " other bytes came back");
    }
    return Status.Code.OK;
  }

  private Status.Code tooLargeRequest() throws Exception {
    return failed(() -> soon().unary(zeros(9 << 20))).getStatus().getCode();
  }

  private Status.Code tooLargeAnswer() throws Exception {
    Request request = Request.newBuilder().setAnswerSize(9 << 20).build();
    return failed(() -> soon().unary(request)).getStatus().getCode();
  }

  private Status.Code gzip() throws Exception {
    Request request = zeros(1 << 20).toBuilder().setAnswerSize(1 << 20).setGzip(true).build();
    Response response = soon().withCompression("gzip").unary(request);
    same("bytes", response.getBytes(), 1L << 20);
    same("the answer's bytes", response.getPayload().size(), 1 << 20);
    return Status.Code.OK;
  }

  private Status.Code health() throws Exception {
    HealthGrpc.HealthBlockingV2Stub health = HealthGrpc.newBlockingV2Stub(channel);
    HealthCheckRequest request = HealthCheckRequest.getDefaultInstance();
    same("Check", health.check(request).getStatus(), ServingStatus.SERVING);
    var watch = health.watch(request);
    same("Watch", watch.read().getStatus(), ServingStatus.SERVING);
    watch.cancel("enough was seen", null);
    return Status.Code.OK;
  }

  /** Without the authority, as a person asks who has a sidecar before him, and not one service. */
  private Status.Code reflection() throws Exception {
    ManagedChannel plain = dial("");
    try {
      BlockingClientCall<ServerReflectionRequest, ServerReflectionResponse> call =
          ServerReflectionGrpc.newBlockingV2Stub(plain).serverReflectionInfo();
      call.write(
          ServerReflectionRequest.newBuilder()
              .setFileContainingSymbol("pillion.languages.v1.Peer")
              .build());
      ServerReflectionResponse response = call.read();
      if (response.getFileDescriptorResponse().getFileDescriptorProtoCount() == 0) {
        throw new AssertionError("no descriptor came: " + response);
      }
      call.halfClose();
    } finally {
      plain.shutdownNow();
    }
    return Status.Code.OK;
  }

  private Status.Code keepalive() throws Exception {
    unary();
    System.out.println("idle");
    Thread.sleep(idleSeconds * 1000);
    System.out.println("awake");
    return unary();
  }
}
