// Verifies tokens with Spring Security, which finds keys and algorithms from the issuer's URL, or introspects them:
// java Verify ISSUER AUDIENCE SECRET < lines of "verify TOKEN" or "introspect TOKEN"
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.springframework.security.oauth2.jwt.JwtAudienceValidator;
import org.springframework.security.oauth2.jwt.JwtDecoder;
import org.springframework.security.oauth2.jwt.JwtException;
import org.springframework.security.oauth2.jwt.JwtIssuerValidator;
import org.springframework.security.oauth2.jwt.JwtTypeValidator;
import org.springframework.security.oauth2.jwt.JwtValidators;
import org.springframework.security.oauth2.jwt.NimbusJwtDecoder;
import org.springframework.security.oauth2.jwt.SupplierJwtDecoder;
import org.springframework.security.oauth2.server.resource.introspection.BadOpaqueTokenException;
import org.springframework.security.oauth2.server.resource.introspection.OpaqueTokenIntrospector;
import org.springframework.security.oauth2.server.resource.introspection.SpringOpaqueTokenIntrospector;
import tools.jackson.databind.json.JsonMapper;

public final class Verify {
    public static void main(String[] arguments) throws Exception {
        String issuer = arguments[0];
        JwtDecoder decoder = new SupplierJwtDecoder(() -> discover(issuer, arguments[1]));
        OpaqueTokenIntrospector introspector = SpringOpaqueTokenIntrospector
                .withIntrospectionUri(issuer + "/introspect")
                .clientId("orders")
                .clientSecret(arguments[2])
                .build();
        Map<String, Function<String, Map<String, Object>>> actions = Map.of(
                "verify", token -> decoder.decode(token).getClaims(),
                "introspect", token -> introspector.introspect(token).getAttributes());
        JsonMapper json = new JsonMapper();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] words = line.split(" ", 2);
            Map<String, Object> answer;
            try {
                answer = Map.of("claims", actions.get(words[0]).apply(words[1]));
            } catch (JwtException | BadOpaqueTokenException refused) {
                answer = Map.of("refused", refused.toString());
            }
            System.out.println(json.writeValueAsString(answer));
        }
    }

    private static JwtDecoder discover(String issuer, String audience) {
        NimbusJwtDecoder decoder = NimbusJwtDecoder.withIssuerLocation(issuer).build();
        decoder.setJwtValidator(JwtValidators.createDefaultWithValidators(List.of(
                new JwtTypeValidator("at+jwt"), new JwtIssuerValidator(issuer), new JwtAudienceValidator(audience))));
        return decoder;
    }
}
