//go:build linux

package ec2

import (
	"fmt"
	"net/http"
)

// apiError is a refusal in the words of the real service.
type apiError struct {
	status        int // of HTTP
	code, message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// fail is a refusal with the status that the real service gives that code.
func fail(code, format string, args ...any) *apiError {
	e := &apiError{status: http.StatusBadRequest, code: code, message: fmt.Sprintf(format, args...)}
	switch code {
	case "RequestLimitExceeded", "Unavailable", "SlowDown":
		e.status = http.StatusServiceUnavailable
	case "InternalError", "InternalFailure", "InternalServerError", "InsufficientInstanceCapacity", "InsufficientHostCapacity":
		e.status = http.StatusInternalServerError
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "OptInRequired", "SignatureDoesNotMatch", "InvalidClientTokenId":
		e.status = http.StatusForbidden
	case "AuthFailure", "UnrecognizedClientException", "InvalidAccessKeyId":
		e.status = http.StatusUnauthorized
	case "DryRunOperation":
		e.status = http.StatusPreconditionFailed
	case "NoSuchEntity", "NoSuchKey", "NoSuchBucket", "NoSuchUpload":
		e.status = http.StatusNotFound
	case "EntityAlreadyExists", "DeleteConflict", "BucketAlreadyOwnedByYou":
		e.status = http.StatusConflict
	}
	return e
}

func missing(parameter string) *apiError {
	return fail("MissingParameter", "The request must contain the parameter %s", parameter)
}

func invalid(parameter, format string, args ...any) *apiError {
	return fail("InvalidParameterValue", "Invalid value for parameter %s: %s", parameter, fmt.Sprintf(format, args...))
}

func combination(format string, args ...any) *apiError {
	return fail("InvalidParameterCombination", format, args...)
}
