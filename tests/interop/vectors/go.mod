module authix.tests/vectors

go 1.26.4

require github.com/c2sp/wycheproof v0.0.0-20260625212325-ee7b4f7e6119
