"""Which archive a word names."""

from sartransfer.errors import InputError, one_of
from sartransfer.fetch.archive import Archive
from sartransfer.fetch.grd import ProductArchive
from sartransfer.fetch.stac import ENDPOINTS, PRODUCT, Endpoint, StacArchive, own_endpoint

EARTH_ENGINE = "earth-engine"
SOURCES = (*ENDPOINTS, EARTH_ENGINE)


def open_archive(
    source: str | None = None,
    *,
    endpoint: str | None = None,
    collection: str | None = None,
    unit: str | None = None,
    project: str | None = None,
) -> Archive:
    """Return the archive of a known source, or of any STAC API by its address and collection.

    `unit` is what the assets of such a collection hold; `project` is Earth Engine's. Raises `InputError` for a source
    that is not known, or both a source and an endpoint.
    """
    if endpoint is not None:
        if source is not None:
            raise InputError("give either a source or an endpoint, not both.")
        return of_endpoint(own_endpoint(endpoint, collection, unit))
    name = source or next(iter(ENDPOINTS))
    if name not in SOURCES:
        raise InputError(one_of("source", name, SOURCES))
    if collection or unit:
        raise InputError("collection and unit go with an endpoint of your own (--endpoint).")
    if name == EARTH_ENGINE:
        from sartransfer.fetch.earth_engine import EarthEngineArchive

        return EarthEngineArchive(project)
    return of_endpoint(ENDPOINTS[name])


def of_endpoint(endpoint: Endpoint) -> Archive:
    """Return the archive for a collection: backscatter on a map, or GRD products."""
    return ProductArchive(endpoint) if endpoint.unit == PRODUCT else StacArchive(endpoint)
