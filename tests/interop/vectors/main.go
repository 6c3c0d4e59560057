// Writes the test vectors of Project Wycheproof for our algorithms into a folder: vectors FOLDER
package main

import (
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"github.com/c2sp/wycheproof"
)

var names = []string{
	"ecdsa_secp256r1_sha256_p1363_test.json",
	"ed25519_test.json",
	"rsa_signature_2048_sha256_test.json",
	"rsa_signature_3072_sha256_test.json",
	"rsa_signature_4096_sha256_test.json",
	"rsa_signature_8192_sha256_test.json",
	"json_web_key_test.json",
	"json_web_signature_test.json",
}

func main() {
	for _, name := range names {
		content, err := fs.ReadFile(wycheproof.TestVectors, name)
		if err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(os.Args[1], name), content, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
