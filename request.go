package pipedream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/guard"
)

// HandleRequest guards the SDK's framework, and works around four shortcomings. Its error shows
// the value of a secret field of the wrong type. It takes values for others: an empty
// one for zero, 0100 for 64, -1 for true. It has no text for a path with an invalid
// name. And it lets a panic end the process, which all mounts share.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	err = guard.Run(b.Logger(), func() (err error) {
		resp, err = b.handle(ctx, req)
		return err
	})
	if errors.Is(err, guard.ErrPanic) {
		return nil, logical.CodedError(http.StatusInternalServerError, err.Error())
	}
	return resp, err
}

func (b *backend) handle(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := b.checkInput(req); err != nil {
		return nil, err
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	switch {
	case errors.Is(err, logical.ErrUnsupportedPath) && b.takesName(req.Path):
		return b.handleBadName(ctx, req)
	case errors.Is(err, logical.ErrUnsupportedOperation):
		return nil, unsupported(req)
	case err != nil:
		return resp, b.nameUnknown(req, err)
	case resp == nil:
		resp = b.warnOfUnknown(req)
	}
	return resp, err
}

// HandleExistenceCheck guards the check before a write in the same way. Vault shows
// the text of its error only if that is a UserError.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checked, exists bool, err error) {
	err = guard.Run(b.Logger(), func() error {
		if err := b.checkInput(req); err != nil {
			return errutil.UserError{Err: err.Error()}
		}
		checked, exists, err = b.Backend.HandleExistenceCheck(ctx, req)
		return err
	})
	return checked, exists, err
}

// handleBadName answers a request for a path of the engine with an invalid name. Help
// is that of the path with a valid one.
func (b *backend) handleBadName(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	first, _, _ := strings.Cut(req.Path, "/")
	switch {
	case req.Operation == logical.ListOperation:
		return nil, logical.ErrUnsupportedPath
	case req.Operation == logical.HelpOperation:
		help := *req
		help.Path = first + "/" + exampleAccountID
		return b.Backend.HandleRequest(ctx, &help)
	case first == "accounts":
		return nil, errBadAccountID
	case first == "roles", first == "connect":
		return nil, errBadRoleName
	case first == pathUsers:
		return nil, badRequest("a path below users/ must end in an external user id")
	default:
		return nil, errBadName
	}
}

// takesName reports whether path would be one of the engine's with a valid account
// id or name after its first part.
func (b *backend) takesName(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return b.Route(first+"/"+exampleAccountID) != nil
}

// unsupported returns the error for an unsupported operation. It names the operation
// that was probably meant, if there is one.
func unsupported(req *logical.Request) error {
	meant := ""
	first, rest, _ := strings.Cut(strings.TrimRight(req.Path, "/"), "/")
	switch {
	case req.Operation == logical.RenewOperation:
	case first == "roles" && rest == "" && req.Operation != logical.ReadOperation:
		meant = "a role is written or deleted by its name, <mount>/roles/<role>"
	case (first == "accounts" || first == "roles") && rest == "":
		meant = first + " can only be listed: " + cli + " list <mount>/" + first
	case first == "refresh":
		meant = first + " only supports writes: " + cli + " write -force <mount>/" + req.Path
	}
	if meant == "" {
		return logical.ErrUnsupportedOperation
	}
	return logical.CodedError(http.StatusMethodNotAllowed, atMount(req, meant))
}

// checkInput refuses values that the framework would misread. These are values of
// the wrong type, which its error would show, even in the audit log, and values that
// it would take for others.
func (b *backend) checkInput(req *logical.Request) error {
	if len(req.Data) == 0 || !takesInput(req.Operation) {
		return nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for name, field := range path.Fields {
		value, ok := req.Data[name]
		if !ok || strings.Contains(path.Pattern, "(?P<"+name+">") { // the path itself has this one
			continue
		}
		if err := checkValue(name, field, value); err != nil {
			return err
		}
	}
	return nil
}

func takesInput(operation logical.Operation) bool {
	switch operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.ReadOperation, logical.ListOperation, logical.DeleteOperation:
		return true
	default:
		return false
	}
}

// wanted says for each type what its values must be.
var wanted = map[framework.FieldType]string{
	framework.TypeString:           "a string",
	framework.TypeCommaStringSlice: "a list of strings, or a string with commas between them",
	framework.TypeBool:             "true or false",
	framework.TypeInt:              "a whole number, such as 100",
	framework.TypeDurationSecond:   "in whole seconds, such as 90 or 5m",
}

func checkValue(name string, field *framework.FieldSchema, value any) error {
	scalar := field.Type == framework.TypeBool || field.Type == framework.TypeInt || field.Type == framework.TypeDurationSecond
	switch {
	case scalar && (value == nil || value == ""):
		return badRequest("%s is empty: give it a value, or leave it out", name)
	case !fits(name, field, value):
		return badRequest("%s must be %s", name, wanted[field.Type])
	default:
		return nil
	}
}

// fits reports whether the framework would take a value for what it is.
func fits(name string, field *framework.FieldSchema, value any) bool {
	data := framework.FieldData{Raw: map[string]any{name: value}, Schema: map[string]*framework.FieldSchema{name: field}}
	_, isString := value.(string)
	valid := data.Validate() == nil // its error repeats the value
	switch field.Type {
	case framework.TypeString:
		return isString
	case framework.TypeCommaStringSlice:
		return isNames(value)
	case framework.TypeInt:
		return valid && isWhole(value)
	case framework.TypeDurationSecond:
		return valid && isWholeSeconds(value)
	case framework.TypeBool:
		return valid && isFlag(value)
	default:
		return valid
	}
}

// isNames reports whether a value is a string or a list of strings.
func isNames(value any) bool {
	switch list := value.(type) {
	case string, []string:
		return true
	case []any:
		return !slices.ContainsFunc(list, func(element any) bool {
			_, isString := element.(string)
			return !isString
		})
	default:
		return false
	}
}

// wholeNumber is a number as a person reads it. The framework takes 0100 for 64, and
// 1_000 for 1000.
var wholeNumber = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// isWhole reports whether a value is a whole number, or a string with one.
func isWhole(value any) bool {
	switch number := value.(type) {
	case string:
		return wholeNumber.MatchString(number)
	case json.Number:
		return wholeNumber.MatchString(number.String())
	case float64:
		return number == math.Trunc(number) && math.Abs(number) <= 1<<53 // those beyond are not exact
	case int, int64:
		return true
	default:
		return false
	}
}

// isWholeSeconds is like [isWhole], for durations. A string can have parts of a
// second, as long as the whole has none.
func isWholeSeconds(value any) bool {
	if _, isString := value.(string); !isString && !isWhole(value) {
		return false
	}
	d, err := parseutil.ParseDurationSecond(value)
	return err == nil && d%time.Second == 0
}

// isFlag reports whether a value is a bool, 0 or 1, or a string with one of them. The
// framework takes every other number for true.
func isFlag(value any) bool {
	switch flag := value.(type) {
	case bool:
		return true
	case string:
		_, err := strconv.ParseBool(flag)
		return err == nil
	case json.Number:
		return flag == "0" || flag == "1"
	case float64:
		return flag == 0 || flag == 1
	case int:
		return flag == 0 || flag == 1
	default:
		return false
	}
}

// written returns the path that req writes to; nil if it writes nothing.
func (b *backend) written(req *logical.Request) *framework.Path {
	if req.Operation != logical.CreateOperation && req.Operation != logical.UpdateOperation {
		return nil
	}
	return b.Route(req.Path)
}

// unknownFields returns the names in a write that the path has no fields for.
func (b *backend) unknownFields(req *logical.Request) []string {
	path := b.written(req)
	if path == nil {
		return nil
	}
	var unknown []string
	for name := range req.Data {
		if path.Fields[name] == nil {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// refuseOthers refuses a request with a parameter that is not one of these. It is for
// paths whose operations have parameters of their own: one that is misspelt, or that is
// for another operation, could be what keeps this one from going too far. Policies bind
// no parameters of a read or a delete.
func refuseOthers(req *logical.Request, taken ...string) error {
	var others []string
	for name := range req.Data {
		if !slices.Contains(taken, name) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return nil
	}
	slices.Sort(others)
	verb := string(req.Operation)
	if req.Operation == logical.UpdateOperation {
		verb = "write"
	}
	takes := "it takes none"
	if len(taken) > 0 {
		takes = "it takes " + strings.Join(taken, ", ")
	}
	return badRequest("nothing was done, because a %s of this path has no parameters named %v: %s", verb, others, takes)
}

// warnOfUnknown returns a response that warns about the unknown fields of a
// successful write. The framework adds such a warning only to a response, and a
// misspelt setting must not look as if it was set.
func (b *backend) warnOfUnknown(req *logical.Request) *logical.Response {
	unknown := b.unknownFields(req)
	if len(unknown) == 0 {
		return nil
	}
	resp := &logical.Response{}
	resp.AddWarning(fmt.Sprintf("Endpoint ignored these unrecognized parameters: %v", unknown))
	return resp
}

// nameUnknown adds the unknown fields to the error of a refused write: a field that
// it lacks may be there under a misspelt name.
func (b *backend) nameUnknown(req *logical.Request, err error) error {
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	if !ok || coded.Code() != http.StatusBadRequest {
		return err
	}
	unknown := b.unknownFields(req)
	if len(unknown) == 0 || strings.Contains(err.Error(), fmt.Sprint(unknown)) {
		return err
	}
	return badRequest("%s (there are no fields named %v)", err, unknown)
}
