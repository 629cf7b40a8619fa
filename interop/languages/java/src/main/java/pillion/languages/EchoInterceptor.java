package pillion.languages;

import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;

/** Answers with the client's metadata as headers and as trailers. */
final class EchoInterceptor implements ServerInterceptor {
  static final Metadata.Key<String> ECHO = text("x-echo");
  static final Metadata.Key<byte[]> ECHO_BIN = binary("x-echo-bin");
  static final Metadata.Key<String> TRAIL = text("x-trail");
  static final Metadata.Key<byte[]> TRAIL_BIN = binary("x-trail-bin");

  @Override
  public <Q, A> ServerCall.Listener<Q> interceptCall(
      ServerCall<Q, A> call, Metadata got, ServerCallHandler<Q, A> next) {
    return next.startCall(
        new SimpleForwardingServerCall<Q, A>(call) {
          @Override
          public void sendHeaders(Metadata headers) {
            copy(got, ECHO, headers, ECHO);
            copy(got, ECHO_BIN, headers, ECHO_BIN);
            super.sendHeaders(headers);
          }

          @Override
          public void close(Status status, Metadata trailers) {
            copy(got, ECHO, trailers, TRAIL);
            copy(got, ECHO_BIN, trailers, TRAIL_BIN);
            super.close(status, trailers);
          }
        },
        got);
  }

  static Metadata.Key<byte[]> binary(String name) {
    return Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER);
  }

  private static Metadata.Key<String> text(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  private static <T> void copy(
      Metadata from, Metadata.Key<T> key, Metadata to, Metadata.Key<T> as) {
    Iterable<T> values = from.getAll(key);
    if (values != null) {
      values.forEach(value -> to.put(as, value));
    }
  }
}
