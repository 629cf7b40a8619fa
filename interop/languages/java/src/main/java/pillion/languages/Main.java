package pillion.languages;

import java.util.HashMap;
import java.util.Map;

/** The peer that is written with grpc-java: a server and a client of the service in ../proto. */
public final class Main {
  /** The largest message that is taken, in bytes. */
  static final int MAX_MESSAGE = 8 << 20;

  /** What grpc-java sends at most. */
  static final int KEEPALIVE_SECONDS = 10;

  /** Bounds what has to succeed. */
  static final int PATIENCE_SECONDS = 60;

  private Main() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments[0].equals("server")) {
      PeerServer.serve();
      return;
    }

    Map<String, String> options = new HashMap<>();
    for (int i = 1; i + 1 < arguments.length; i += 2) {
      options.put(arguments[i], arguments[i + 1]);
    }
    try (PeerClient client = new PeerClient(options)) {
      client.run(options.get("--cases").split(","));
    }
  }
}
