// Verifies tokens with go-oidc, which finds keys and algorithms from the issuer's URL:
// verify ISSUER AUDIENCE < lines of "verify TOKEN"
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

func main() {
	ctx := context.Background()
	provider, err := oidc.NewProvider(ctx, os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	verifier := provider.VerifierContext(ctx, &oidc.Config{ClientID: os.Args[2]})
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, claims := map[string]any{}, map[string]any{}
		token, err := verifier.Verify(ctx, strings.TrimPrefix(lines.Text(), "verify "))
		if err == nil {
			err = token.Claims(&claims)
		}
		if err != nil {
			answer["refused"] = err.Error()
		} else {
			answer["claims"] = claims
		}
		if err := answers.Encode(answer); err != nil {
			log.Fatal(err)
		}
	}
}
