import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

/** A Java app for tests. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        var port = Integer.parseInt(System.getenv("PORT"));
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", exchange -> {
            var text = "java".getBytes();
            exchange.sendResponseHeaders(200, text.length);
            exchange.getResponseBody().write(text);
            exchange.close();
        });
        server.start();
    }
}
