// Verifies access tokens with golang-jwt: verify KEY-SET-URL ISSUER AUDIENCE ALGORITHM < tokens
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

func main() {
	url, issuer, audience, algorithm := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	keys, err := keyfunc.NewDefault([]string{url})
	if err != nil {
		log.Fatal(err)
	}
	parser := jwt.NewParser(
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithValidMethods([]string{algorithm}),
		jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(),
	)
	answers := json.NewEncoder(os.Stdout)
	tokens := bufio.NewScanner(os.Stdin)
	for tokens.Scan() {
		answer := map[string]any{}
		if token, err := parser.Parse(tokens.Text(), keys.Keyfunc); err != nil {
			answer["refused"] = err.Error()
		} else {
			answer["claims"] = token.Claims
		}
		if err := answers.Encode(answer); err != nil {
			log.Fatal(err)
		}
	}
}
