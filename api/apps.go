package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

// App is an app as the API shows it.
type App struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Settings  auth.Settings `json:"settings" doc:"As they are in force: the defaults, and what was set."`
	CreatedAt time.Time     `json:"created_at"`
	UpdatedAt time.Time     `json:"updated_at"`
}

func appOf(a auth.App) App { return App{a.ID, a.Name, a.Settings, a.CreatedAt, a.UpdatedAt} }

// settingsPatch is a merge patch (RFC 7396) of settings.
type settingsPatch json.RawMessage

// Schema implements huma.SchemaProvider.
func (settingsPatch) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: true,
		Description: "Members of settings to set; null takes one back to its default. What an app answers shows them all.",
	}
}

// UnmarshalJSON keeps the text.
func (p *settingsPatch) UnmarshalJSON(b []byte) error {
	*p = append((*p)[:0], b...)
	return nil
}

// MarshalJSON gives the text back.
func (p settingsPatch) MarshalJSON() ([]byte, error) { return json.RawMessage(p).MarshalJSON() } //nolint:wrapcheck // never fails

type createAppInput struct {
	Body struct {
		ID       string        `json:"id" doc:"1 to 63 characters of a-z, 0-9 and -, the first of them not -."`
		Name     string        `json:"name,omitempty" doc:"For people; default the id."`
		Settings settingsPatch `json:"settings,omitempty"`
	}
}

type appOutput struct {
	Location string `header:"Location"`
	Body     App
}

type patchAppInput struct {
	AppPath
	Body struct {
		Name     *string       `json:"name,omitempty"`
		Settings settingsPatch `json:"settings,omitempty"`
	}
}

type deleteAppInput struct {
	AppPath
	Confirm string `query:"confirm" doc:"The app's id once more."`
}

func (s *service) apps() {
	register(s, adminOnly, huma.Operation{
		OperationID: "create-app", Method: http.MethodPost, Path: "/v1/apps", Summary: "Create an app", Tags: []string{"Apps"},
		Description:   "A new app has one generated signing key and no rules: it denies everything.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict, http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *createAppInput) (*appOutput, error) {
		a, err := s.cfg.Directory.CreateApp(ctx, actor(ctx), auth.NewApp{ID: in.Body.ID, Name: in.Body.Name, Settings: json.RawMessage(in.Body.Settings)})
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &appOutput{Location: "/v1/apps/" + a.ID, Body: appOf(a)}, nil
	})
	register(s, adminOnly, huma.Operation{
		OperationID: "list-apps", Method: http.MethodGet, Path: "/v1/apps", Summary: "List apps", Tags: []string{"Apps"},
	}, s.listApps)
	register(s, adminOnly, huma.Operation{
		OperationID: "get-app", Method: http.MethodGet, Path: "/v1/apps/{app}", Summary: "Get an app", Tags: []string{"Apps"},
	}, func(_ context.Context, in *AppPath) (*appOutput, error) {
		a, ok := s.cfg.Directory.App(in.App)
		if !ok {
			return nil, auth.ErrNotFound
		}
		return &appOutput{Body: appOf(a)}, nil
	})
	register(s, adminOnly, huma.Operation{
		OperationID: "update-app", Method: http.MethodPatch, Path: "/v1/apps/{app}", Summary: "Change an app's name or settings", Tags: []string{"Apps"},
		Description: "settings are merged (RFC 7396): null takes a member back to its default. Live connections follow.",
		Errors:      []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *patchAppInput) (*appOutput, error) {
		a, err := s.cfg.Directory.UpdateApp(ctx, actor(ctx), in.App, in.Body.Name, json.RawMessage(in.Body.Settings))
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &appOutput{Body: appOf(a)}, nil
	})
	register(s, adminOnly, huma.Operation{
		OperationID: "delete-app", Method: http.MethodDelete, Path: "/v1/apps/{app}", Summary: "Delete an app", Tags: []string{"Apps"},
		Description:   "Removes every trace of the app and disconnects its clients. confirm must repeat the id.",
		DefaultStatus: http.StatusNoContent, Errors: []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *deleteAppInput) (*struct{}, error) {
		if in.Confirm != in.App {
			return nil, unprocessable("query.confirm", "must be the app's id, "+in.App+": everything in it will be gone")
		}
		return nil, s.cfg.Directory.DeleteApp(ctx, actor(ctx), in.App) //nolint:wrapcheck // told by register
	})
}

type appsOutput struct{ Body list[App] }

func (s *service) listApps(_ context.Context, in *ListQuery) (*appsOutput, error) {
	after, err := decodeCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	all := s.cfg.Directory.Apps()
	all = slices.DeleteFunc(all, func(a auth.App) bool { return after != "" && a.ID <= after })
	out := &appsOutput{Body: page(all, in.Limit, func(a auth.App) string { return a.ID }, appOf)}
	return out, nil
}
