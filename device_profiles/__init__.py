"""Device profiles as TOML files; `shared.profile` reads them."""
