"""Classes of parcels, and the account of every parcel."""
