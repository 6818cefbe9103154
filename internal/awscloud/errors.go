package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// NotFoundError says that the cloud does not know what was asked for, although
// the call itself was answered.
type NotFoundError struct{ What string }

func (e *NotFoundError) Error() string { return "there is no " + e.What }

// Code is the cloud's code of an error, such as "InvalidAMIID.NotFound", or "".
func Code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// IsNotFound says that the thing does not exist, or is not known yet.
func IsNotFound(err error) bool {
	var ours *NotFoundError
	if errors.As(err, &ours) {
		return true
	}
	code := Code(err)
	return strings.HasSuffix(code, ".NotFound") || strings.HasSuffix(code, ".Unknown") && strings.HasPrefix(code, "Invalid") ||
		slices.Contains([]string{"NoSuchEntity", "NotFoundException", "ParameterNotFound", "ResourceNotFoundException", "NoSuchKey", "NoSuchBucket",
			"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFoundException", "InvalidLaunchTemplateId.NotFound", "InvalidAMIID.Unavailable", "InvalidFleetId.NotFound"}, code)
}

// IsThrottled says that the call was refused because there are too many.
func IsThrottled(err error) bool {
	_, ok := retry.DefaultThrottleErrorCodes[Code(err)]
	return ok
}

// IsDenied says that the credentials may not make the call.
func IsDenied(err error) bool {
	switch Code(err) {
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "AuthFailure", "UnauthorizedAccess",
		"InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "RequestExpired":
		return true
	}
	return false
}

// IsCapacity says that there is no machine of that type, there and now.
func IsCapacity(err error) bool { return IsCapacityCode(Code(err)) }

// IsCapacityCode is IsCapacity for a code alone, as CreateFleet gives it.
func IsCapacityCode(code string) bool {
	return slices.Contains([]string{"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity", "InsufficientCapacity",
		"MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow", "Unsupported", "UnfulfillableCapacity", "InstanceLimitExceeded", "VcpuLimitExceeded"}, code)
}

// IsUnanswered says that no answer came: the call may have taken effect.
func IsUnanswered(err error) bool {
	if err == nil {
		return false
	}
	if api := Code(err); api != "" {
		var resp *smithyhttp.ResponseError
		return errors.As(err, &resp) && resp.HTTPStatusCode() >= http.StatusInternalServerError
	}
	var ours *NotFoundError
	return !errors.As(err, &ours)
}

// Error is an error of the API as people read it.
type Error struct {
	Operation, CodeText, Message, Hint string
	err                                error
}

func (e *Error) Error() string {
	s := e.Operation
	if s != "" {
		s += ": "
	}
	s += e.CodeText
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.err }

// Explain makes an error of the API short: the operation, the cloud's code and
// words, and what to do. Other errors stay as they are.
func Explain(err error) error {
	var done *Error
	var api smithy.APIError
	if err == nil || errors.As(err, &done) || !errors.As(err, &api) {
		return err
	}
	e := &Error{CodeText: api.ErrorCode(), Message: api.ErrorMessage(), err: err}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		e.Operation = op.Operation()
	}
	switch {
	case slices.Contains([]string{"ExpiredToken", "ExpiredTokenException", "RequestExpired"}, e.CodeText):
		e.Hint = "the credentials have ended; use some that last as long as the bake, or such as renew themselves: a profile, SSO, assume_role"
	case slices.Contains([]string{"InvalidClientTokenId", "SignatureDoesNotMatch", "AuthFailure"}, e.CodeText):
		e.Hint = "the credentials are not valid here; look at access_key, profile, AWS_PROFILE and AWS_ACCESS_KEY_ID"
	case strings.Contains(e.Message, "Encoded authorization failure message"):
		e.Hint = "decode_authorization_messages = true says why"
	case IsThrottled(err):
		e.Hint = "the account's rate of calls is used up; max_retries makes Ingot try longer"
	}
	return e
}

// decoder makes the middleware that puts the reason of a denied call in the
// place of its encoded form.
func decoder(client *sts.Client) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("IngotDecodeAuthorizationMessage",
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
				out, md, err := next.HandleInitialize(ctx, in)
				return out, md, decode(ctx, client, err)
			}), middleware.Before)
	}
}

const encodedMark = "Encoded authorization failure message: "

func decode(ctx context.Context, client *sts.Client, err error) error {
	var api smithy.APIError
	if err == nil || !errors.As(err, &api) {
		return err
	}
	before, encoded, found := strings.Cut(api.ErrorMessage(), encodedMark)
	if !found {
		return err
	}
	encoded, _, _ = strings.Cut(strings.TrimSpace(encoded), " ")
	out, failed := client.DecodeAuthorizationMessage(ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: &encoded})
	decoded := &smithy.GenericAPIError{Code: api.ErrorCode(), Fault: api.ErrorFault()}
	if failed != nil {
		decoded.Message = fmt.Sprintf("%s the reason cannot be decoded: %v", strings.TrimSpace(before), Explain(failed))
	} else {
		decoded.Message = strings.TrimSpace(before) + " " + aws.ToString(out.DecodedMessage)
	}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return &smithy.OperationError{ServiceID: op.ServiceID, OperationName: op.OperationName, Err: decoded}
	}
	return decoded
}
