"""SCD-Net (AAAI 2024), executable."""

__version__ = "0.1.0"
