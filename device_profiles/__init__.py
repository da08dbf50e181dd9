"""Device profiles as TOML files; `shared.device_profile` reads them."""
