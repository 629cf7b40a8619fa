package pillion.languages;

import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.services.HealthStatusManager;
import io.grpc.protobuf.services.ProtoReflectionService;
import io.grpc.protobuf.services.ProtoReflectionServiceV1;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import pillion.languages.v1.EndedRequest;
import pillion.languages.v1.EndedResponse;
import pillion.languages.v1.PeerGrpc;
import pillion.languages.v1.Request;
import pillion.languages.v1.Response;

final class PeerServer extends PeerGrpc.PeerImplBase {
  private static final Metadata.Key<byte[]> DETAILS =
      EchoInterceptor.binary("grpc-status-details-bin");

  /** By their hold. */
  private final Map<String, CountDownLatch> ends = new ConcurrentHashMap<>();

  static void serve() throws Exception {
    Server server =
        NettyServerBuilder.forAddress(
                new InetSocketAddress("127.0.0.1", 0), InsecureServerCredentials.create())
            .maxInboundMessageSize(Main.MAX_MESSAGE)
            .keepAliveTime(Main.KEEPALIVE_SECONDS, TimeUnit.SECONDS)
            .permitKeepAliveTime(Main.KEEPALIVE_SECONDS / 2, TimeUnit.SECONDS)
            .permitKeepAliveWithoutCalls(true)
            .intercept(new EchoInterceptor())
            .addService(new PeerServer())
            .addService(new HealthStatusManager().getHealthService())
            .addService(ProtoReflectionServiceV1.newInstance())
            .addService(ProtoReflectionService.newInstance())
            .build()
            .start();
    String version = Grpc.class.getPackage().getImplementationVersion();
    System.out.printf("listening on 127.0.0.1:%d (grpc-java %s)%n", server.getPort(), version);
    server.awaitTermination();
  }

  private CountDownLatch end(String hold) {
    return ends.computeIfAbsent(hold, name -> new CountDownLatch(1));
  }

  @Override
  public void unary(Request request, StreamObserver<Response> answers) {
    ServerCallStreamObserver<Response> call = (ServerCallStreamObserver<Response>) answers;
    if (request.getGzip()) {
      call.setCompression("gzip");
    }
    if (request.getFailCode() != 0) {
      answers.onError(failure(request));
      return;
    }
    if (!request.getHold().isEmpty()) {
      call.setOnCancelHandler(() -> end(request.getHold()).countDown());
      return;
    }
    answers.onNext(answer(request));
    answers.onCompleted();
  }

  @Override
  public StreamObserver<Request> collect(StreamObserver<Response> answers) {
    return new StreamObserver<>() {
      private final Response.Builder response = Response.newBuilder();
      private boolean failed;

      @Override
      public void onNext(Request request) {
        if (failed) {
          return;
        }
        if (request.getFailCode() != 0) {
          failed = true;
          answers.onError(failure(request));
          return;
        }
        response.setRequests(response.getRequests() + 1);
        response.setBytes(response.getBytes() + request.getPayload().size());
      }

      @Override
      public void onError(Throwable cancelled) {}

      @Override
      public void onCompleted() {
        if (!failed) {
          answers.onNext(response.build());
          answers.onCompleted();
        }
      }
    };
  }

  @Override
  public void spread(Request request, StreamObserver<Response> answers) {
    for (int i = 0; i < request.getAnswers(); i++) {
      answers.onNext(answer(request));
    }
    if (request.getFailCode() != 0) {
      answers.onError(failure(request));
    } else {
      answers.onCompleted();
    }
  }

  @Override
  public StreamObserver<Request> chat(StreamObserver<Response> answers) {
    AtomicReference<String> hold = new AtomicReference<>("");
    // The requests' onError is not called where the client had ended its side before.
    ((ServerCallStreamObserver<Response>) answers)
        .setOnCancelHandler(() -> end(hold.get()).countDown());
    return new StreamObserver<>() {

      @Override
      public void onNext(Request request) {
        if (request.getFailCode() != 0) {
          answers.onError(failure(request));
          return;
        }
        hold.set(request.getHold());
        answers.onNext(answer(request));
      }

      @Override
      public void onError(Throwable cancelled) {}

      @Override
      public void onCompleted() {
        if (hold.get().isEmpty()) {
          answers.onCompleted();
        }
      }
    };
  }

  @Override
  public void ended(EndedRequest request, StreamObserver<EndedResponse> answers) {
    boolean cancelled = false;
    try {
      cancelled = end(request.getHold()).await(10, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    answers.onNext(EndedResponse.newBuilder().setCancelled(cancelled).build());
    answers.onCompleted();
  }

  private static Response answer(Request request) {
    Deadline deadline = Context.current().getDeadline();
    int size = request.getAnswerSize();
    return Response.newBuilder()
        .setPayload(size == 0 ? request.getPayload() : ByteString.copyFrom(new byte[size]))
        .setRequests(1)
        .setBytes(request.getPayload().size())
        .setRemainingMs(
            deadline == null ? 0 : (int) deadline.timeRemaining(TimeUnit.MILLISECONDS))
        .build();
  }

  private static StatusRuntimeException failure(Request request) {
    Metadata trailers = new Metadata();
    if (!request.getFailDetails().isEmpty()) {
      trailers.put(DETAILS, request.getFailDetails().toByteArray());
    }
    return Status.fromCodeValue(request.getFailCode())
        .withDescription(request.getFailMessage())
        .asRuntimeException(trailers);
  }
}
