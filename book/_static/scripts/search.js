/* A page on disk may fetch no other, so a search there shows titles, and no lines from the pages. */
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
