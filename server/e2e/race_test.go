//go:build race

package e2e

// buildFlags make the binary what the tests are: watched for data races.
var buildFlags = []string{"-race"}
