--- The checkpoints: what there is, to get one, to use one, to remove what is on the disk.
local config = require('dgemma.config')
local programs = require('dgemma.programs')
local server = require('dgemma.server')

local M = {}

local LEVELS = vim.log.levels
local EMBEDDED = 'embedded'
--- How long the list may take.
local LISTING_MS = 60000
--- How often a message says how far it is: every tenth.
local TENTHS = 10

--- A subcommand of the server's command; options of the server are none of it.
---@param ... string
---@return string[]
local function subcommand(...)
  local command = {}
  for _, word in ipairs(config.options.cmd) do
    if vim.startswith(word, '--') then
      break
    end
    table.insert(command, word)
  end
  return vim.list_extend(command, { ... })
end

--- What `dgemma-lsp checkpoints --json` says; nil where it cannot be asked, which the user is told.
---@param use fun(survey: table?)
function M.survey(use)
  if vim.fn.executable(config.options.cmd[1]) == 0 then
    server.say('the server is not installed; :Dgemma install does that', LEVELS.ERROR)
    return use(nil)
  end
  local function take(listed)
    local read, survey = pcall(vim.json.decode, listed.stdout, { luanil = { object = true } })
    if read and type(survey) == 'table' then
      return use(survey)
    end
    server.say('the server does not say which checkpoints there are; see :checkhealth dgemma', LEVELS.ERROR)
    use(nil)
  end
  local options = { text = true, cwd = vim.uv.os_homedir(), timeout = LISTING_MS }
  if not pcall(vim.system, subcommand('checkpoints', '--json'), options, vim.schedule_wrap(take)) then
    take({})
  end
end

--- Get a checkpoint, or what is missing of it; then have the server use it.
---@param name string
---@param use fun() once it is here
function M.pull(name, use)
  if programs.is_busy() then
    return server.say(('something is on its way already: %s'):format(programs.doing or 'a command'), LEVELS.WARN)
  end
  local last, told, told_tenth = nil, '', -1
  local function see(line)
    local read, event = pcall(vim.json.decode, line, { luanil = { object = true } })
    if not read or type(event) ~= 'table' then
      return
    end
    last = event
    if event.event == 'said' then
      server.say(event.message, LEVELS.INFO)
    elseif event.event == 'progress' then
      local share = event.share or 0
      local text = ('getting %s, %s: %d %%'):format(name, event.doing, math.floor(100 * share))
      programs.show(text)
      local tenth = math.floor(TENTHS * share)
      if event.doing ~= told or tenth > told_tenth then
        told, told_tenth = event.doing, tenth
        server.say(text, LEVELS.INFO)
      end
    end
  end
  programs.run(subcommand('pull', name, '--json'), see, function(code)
    programs.show()
    if code == 0 then
      server.say(('%s is here'):format(name), LEVELS.INFO)
      use()
    elseif not code then
      server.say('cancelled; what has arrived is kept, and getting it again continues', LEVELS.INFO)
    else
      server.say(last and last.message or ('%s cannot be had; run `dgemma-lsp pull %s`'):format(name, name), LEVELS.ERROR)
    end
  end)
end

---@param row table
---@return string
local function described(row)
  local state = 'not on this machine'
  if row.name == EMBEDDED then
    state = 'inside the package'
  elseif row.problem then
    state = 'damaged'
  elseif row.path then
    state = 'here, ' .. programs.in_words(row.stored_bytes)
  elseif row.unfinished_bytes > 0 then
    state = programs.in_words(row.unfinished_bytes) .. ' have arrived'
  elseif row.shortage then
    state = 'too large for this machine, ' .. row.shortage
  end
  return ('%s (%s)%s'):format(row.name, state, row.offer and ': ' .. row.offer or '')
end

--- Start the server again with a checkpoint, for as long as this editor runs; nil for the best that is here.
---@param name? string
function M.use(name)
  config.options.settings = vim.tbl_extend('force', config.options.settings, { checkpoint = name or vim.NIL })
  server.reconfigure()
  server.restart()
  if name then
    server.say(("to keep it: setup({ settings = { checkpoint = '%s' } })"):format(name), LEVELS.INFO)
  end
end

--- List what there is, and use what is chosen.
function M.choose()
  M.survey(function(survey)
    if not survey then
      return
    end
    local automatic = { automatic = true }
    local rows = vim.list_extend({ automatic }, survey.checkpoints)
    local options = { prompt = ('This machine should use %s: %s'):format(survey.recommended.name, survey.recommended.why) }
    options.format_item = function(row)
      return row.automatic and ('automatic (the best that is here: %s)'):format(survey.used.name) or described(row)
    end
    vim.ui.select(rows, options, function(row)
      if not row then
        return
      elseif row.automatic then
        M.use(nil)
      elseif row.path or row.name == EMBEDDED then
        M.use(row.name)
      else
        M.offer(row, function()
          M.use(row.name)
        end)
      end
    end)
  end)
end

--- Ask before anything is downloaded.
---@param row table
---@param use fun()
function M.offer(row, use)
  local lack = row.shortage and (' This machine may be too small: %s.'):format(row.shortage) or ''
  local prompt = ('Get %s (%s)?%s'):format(row.name, row.offer or 'its size is not known before', lack)
  vim.ui.select({ 'Get it', 'Leave it' }, { prompt = prompt }, function(_, index)
    if index == 1 then
      M.pull(row.name, use)
    end
  end)
end

--- What can be deleted: each checkpoint, converted forms, and the server that the plugin installed.
---@param survey? table
---@return table[]
local function on_disk(survey)
  local found = {}
  for _, row in ipairs(survey and survey.checkpoints or {}) do
    if row.stored_bytes + row.unfinished_bytes > 0 or row.problem then
      table.insert(found, { name = row.name, bytes = row.stored_bytes + row.unfinished_bytes, place = survey.store })
    end
  end
  if survey and survey.converted_elsewhere_bytes > 0 then
    table.insert(found, { name = 'converted', bytes = survey.converted_elsewhere_bytes, place = survey.store })
  end
  local own = config.own_environment()
  if vim.uv.fs_stat(own) then
    table.insert(found, { environment = true, name = 'the server', place = own })
  end
  return found
end

---@param item table
local function delete(item)
  if programs.is_busy() then
    return server.say(('wait for the end of this, or :Dgemma cancel: %s'):format(programs.doing or 'a command'), LEVELS.WARN)
  elseif item.environment then
    server.stop()
    vim.fn.delete(item.place, 'rf')
    config.find_server()
    return server.say(item.place .. ' is deleted', LEVELS.INFO)
  end
  local said = ''
  programs.run(subcommand('remove', item.name, '--yes'), function(line)
    said = line ~= '' and line or said
  end, function(code)
    server.say(said, code == 0 and LEVELS.INFO or LEVELS.ERROR)
    if code == 0 and server.client() then
      server.restart()
    end
  end)
end

--- Say what is on the disk, and delete what is chosen, after it was asked.
function M.remove()
  local function list(survey)
    local found = on_disk(survey)
    if #found == 0 then
      return server.say('neither a checkpoint nor a server of the plugin is on this disk', LEVELS.INFO)
    end
    local options = { prompt = 'Remove from the disk' }
    options.format_item = function(item)
      local size = item.bytes and (' (%s)'):format(programs.in_words(item.bytes)) or ''
      return ('%s%s in %s'):format(item.name, size, item.place)
    end
    vim.ui.select(found, options, function(item)
      if not item then
        return
      end
      vim.ui.select({ 'Delete it', 'Leave it' }, { prompt = ('Delete %s?'):format(options.format_item(item)) }, function(_, index)
        if index == 1 then
          delete(item)
        end
      end)
    end)
  end
  if vim.fn.executable(config.options.cmd[1]) == 1 then
    M.survey(list)
  else
    list(nil)
  end
end

return M
