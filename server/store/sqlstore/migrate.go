package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/embercast/embercast/migrations"
)

// Migrate brings a database's schema up to date with the migrations in dir. It refuses a schema that is newer than this
// program knows: writing to that could lose what the newer one keeps there.
func Migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, dir string) error {
	files, err := fs.Sub(migrations.FS, dir)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	p, err := goose.NewProvider(dialect, db, files)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err //nolint:wrapcheck // explained by the dialect
	}
	if current > target {
		return fmt.Errorf("the database was made by a newer Embercast (its schema is %d, this one knows %d): start that one, or restore a backup of before", current, target)
	}
	_, err = p.Up(ctx)
	return err //nolint:wrapcheck // explained by the dialect
}
