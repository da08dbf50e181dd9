"""Live monitoring of learned series: anomalies, peer comparison, forecasts of crossings."""
