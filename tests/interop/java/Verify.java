// Verifies access tokens with jjwt: java Verify KEY-SET-URL ISSUER AUDIENCE ALGORITHM < tokens
import com.fasterxml.jackson.databind.ObjectMapper;
import io.jsonwebtoken.JwtException;
import io.jsonwebtoken.JwtParser;
import io.jsonwebtoken.Jwts;
import io.jsonwebtoken.security.Jwk;
import io.jsonwebtoken.security.Jwks;
import io.jsonwebtoken.security.SecureDigestAlgorithm;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.Key;
import java.util.HashMap;
import java.util.Map;

public final class Verify {
    public static void main(String[] arguments) throws Exception {
        URI url = URI.create(arguments[0]);
        SecureDigestAlgorithm<?, ?> algorithm = Jwts.SIG.get().forKey(arguments[3]);
        String keySet = HttpClient.newHttpClient()
                .send(HttpRequest.newBuilder(url).build(), BodyHandlers.ofString())
                .body();
        Map<String, Key> keys = new HashMap<>();
        for (Jwk<?> jwk : Jwks.setParser().build().parse(keySet).getKeys()) {
            keys.put(jwk.getId(), jwk.toKey());
        }
        JwtParser parser = Jwts.parser()
                .keyLocator(header -> keys.get(header.get("kid")))
                .requireIssuer(arguments[1])
                .requireAudience(arguments[2])
                .sig().clear().add(algorithm).and()
                .build();
        ObjectMapper json = new ObjectMapper();
        BufferedReader tokens = new BufferedReader(new InputStreamReader(System.in));
        for (String token; (token = tokens.readLine()) != null; ) {
            Map<String, Object> answer = new HashMap<>();
            try {
                answer.put("claims", parser.parseSignedClaims(token).getPayload());
            } catch (JwtException | IllegalArgumentException refused) {
                answer.put("refused", refused.toString());
            }
            System.out.println(json.writeValueAsString(answer));
        }
    }
}
